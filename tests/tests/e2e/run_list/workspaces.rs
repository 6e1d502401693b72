//! What commands about workspaces must do on every engine, as `microagent run` in [`super`].

/// Defines the cases that are given, and these.
macro_rules! with_workspaces {
    ($check:path; $($cases:tt)*) => {
        $crate::run_list::define! { $check;
            $($cases)*
            a_workspace_keeps_what_its_guest_wrote {
                script: r#"w() { microagent --quiet "$@"; }; echo A=1 >env; printf '# a comment\nA=3\nB=two words\n' >other; mkdir data; echo one >data/one; tar -C data -cf data.tar .
                    printf '#!/bin/sh\necho >>%s/used\nexec %s "$@"\n' "$PWD" "$(command -v microagent-supervisor)" >own; chmod 755 own
                    microagent create w --image "$IMAGE" --profile tiny --memory 128 --size-mib 64 --supervisor "$PWD/own" --bundle data=data.tar:/data:rw --env-file env \
                        --setup 'echo prepared >/root/status; echo shown' --setup 'echo twice >>/root/status' 2>notices; grep -cx shown notices
                    grep -oE '"profile": "[a-z]*"|"memoryMiB": 128|"sizeMiB": [0-9]*' "$MICROAGENT_STATE_DIR/workspaces/w/spec.json" | sort | uniq -c | awk '{print $2, $3}'
                    w start w; w exec w -- sh -c 'cat /root/status; echo $A; echo kept >/root/kept; cat /data/one; echo two >/data/two; df -m / | awk "END {print (\$2 > 50 && \$2 <= 64)}"; nproc'
                    w exec --env-file other -e A=2 --cwd /tmp --user user w -- sh -c 'echo $A,$B; pwd; id -un; exit 7'; echo $?
                    w exec w no-such 2>/dev/null; echo $?; w exec w /etc/group 2>/dev/null; echo $?; echo input | w exec -i w cat; w ps | wc -l
                    w halt w --reason 'for a test'; w status w | grep -E '^(state|detail)'
                    w start w >started & until w ps | grep -q '^w '; do :; done; w exec w cat /root/kept /data/two; wait; cat started; wc -l <used
                    w kill w; w exec w true 2>/dev/null; echo $?; w events w | awk '{print $2}' | tr '\n' ' '; echo
                    w delete w w; w list"#,
                seconds: 240,
                code: 0,
                stdout: "w\n1\n\"memoryMiB\": 128\n\"profile\": \"tiny\"\n\"sizeMiB\": 64\nw\nprepared\ntwice\n1\none\n1\n1\n\
                         2,two words\n/tmp\nuser\n7\n127\n126\ninput\n2\nw\n\
                         state      halted\ndetail     for a test\nkept\ntwo\nw\n3\nw\n125\n\
                         prepared starting running stopping halted starting running stopped \n\
                         w\nNAME  STATE  EXIT  SINCE  IMAGE  CREATED\n",
            }
            a_run_that_is_kept_is_a_workspace {
                script: r#"w() { microagent --quiet "$@"; }; set -- --image "$IMAGE" --memory 128 --cpus 1
                    w run --keep --name k --shell /bin/ash --setup 'echo set up >/setup' -e A=1 "$@" --exec 'cat /setup; echo $A >/file; echo $0; exit 3'; echo $?
                    w status k | grep '^state'; w result k | grep exitCode; w run --keep --name k "$@" --exec true 2>&1
                    w cp k:/file file; cat file; w start k; w exec k -- sh -c 'cat /file; echo $A'; w connect k --send 'echo $0'; w --json inspect k | tr -d ' \n' | grep -o '"verification":{"ok":true'
                    echo; w stop k; w diff k | grep -E '/(file|setup)$'; w delete k
                    # The name is taken from the beginning, and free again when it ends.
                    env microagent --quiet run --keep --name r "$@" --exec 'sleep 1000' & until [ -e "$MICROAGENT_STATE_DIR/workspaces/.name-r" ]; do :; done
                    w create r "$@" 2>&1; kill $!; wait; w create r "$@"; w delete r
                    ls -A "$MICROAGENT_STATE_DIR/workspaces" | wc -l; ls "$MICROAGENT_STATE_DIR/cas/roots" | grep -c workspace"#,
                seconds: 240,
                code: 1,
                stdout: "set up\n/bin/sh\n3\nstate      failed\n  \"exitCode\": 3,\n\
                         microagent: workspace \"k\" already exists\n  use another name, or delete it first: microagent delete k\n\
                         1\nk\n1\n1\n/bin/ash\n\"verification\":{\"ok\":true\n\nk\nA /file\nA /setup\nk\n\
                         microagent: another command is making workspace \"r\"\nr\nr\n0\n0\n",
            }
            a_workload_is_run_stopped_and_its_end_is_kept {
                script: r#"w() { microagent --quiet "$@"; }
                    w create ends --image "$IMAGE" --memory 128 --entrypoint 'echo out; echo error >&2; exit 3' >/dev/null
                    w create stays --image "$IMAGE" --memory 128 --entrypoint 'trap "echo asked; exit 0" TERM; mkfifo /f; exec 3<>/f; echo up; while :; do read -r line <&3; done' >/dev/null
                    w start ends & w start stays >/dev/null; wait; w wait ends; echo $?; w logs ends; w result ends | grep exitCode
                    until w logs stays | grep -q up; do :; done; w stop stays; w logs stays; w result stays | grep exitCode; w wait stays; echo $?
                    w start absent 2>&1; w delete ends stays; w create fails --image "$IMAGE" --memory 128 --setup 'echo why; exit 4' 2>&1
                    w list; ls -A "$MICROAGENT_STATE_DIR/workspaces" | wc -l; ls "$MICROAGENT_STATE_DIR/cas/roots" | grep -c workspace"#,
                seconds: 240,
                code: 1,
                stdout: "ends\nends\n1\nout\nerror\n  \"exitCode\": 3,\nstays\nup\nasked\n  \"exitCode\": 0,\nstays\n0\n\
                         microagent: there is no workspace \"absent\"\n  list them: microagent list\nends\nstays\n\
                         microagent: setup command \"echo why; exit 4\" failed with exit code 4\n  its last output: why\n\
                         NAME  STATE  EXIT  SINCE  IMAGE  CREATED\n0\n0\n",
            }
            a_guest_that_does_not_obey_goes_on_after_halt_and_is_killed_by_stop {
                script: r#"w() { microagent --quiet "$@"; }; events() { w events $1 | sed 's/^[^ ]* *//'; }; tar -C "$PROGRAMS" -cf programs.tar .
                    since() { echo $(($(date +%s) - $1 >= $2)) $(($(date +%s) - $1 < 24)); }
                    set -- --memory 128 --cpus 1 --bundle programs=programs.tar:/programs:ro
                    w create deaf --image "$IMAGE" "$@" --entrypoint 'trap "exec /programs/spin" TERM; echo up; while :; do sleep 0.1; done' >/dev/null
                    w create slow --image "${IMAGE%latest}interrupt" "$@" --entrypoint 'trap "echo asked" INT; echo up; while :; do sleep 0.1; done' >/dev/null
                    w start deaf & w start slow >/dev/null; wait; for name in deaf slow; do until w logs $name | grep -q up; do :; done; done; began=$(date +%s)
                    { w halt slow; since $began 10; } >obeyed 2>&1 & w halt deaf --reason first 2>&1; echo $?; since $began 15; wait; cat obeyed
                    w logs slow | head -n 2; events slow | tail -n 2; w list | awk '{print $1, $2}'; began=$(date +%s)
                    w stop deaf --reason second; since $began 15; events deaf | tail -n 4; w delete -f slow deaf"#,
                seconds: 240,
                code: 0,
                stdout: "deaf\nmicroagent: workspace deaf: the guest does not shut down\n  shut it down by force: microagent stop deaf\n1\n1 1\nslow\n1 1\n\
                         up\nasked\nstopping\nhalted\n\
                         NAME STATE\ndeaf running\nslow halted\ndeaf\n1 1\n\
                         stopping\nrunning      the guest does not shut down\nstopping\nstopped      second\nslow\ndeaf\n",
            }
            a_workspace_whose_processes_are_killed_has_failed_and_starts_again {
                script: r#"w() { microagent --quiet "$@"; }
                    w create w --image "$IMAGE" --memory 128; lock="$MICROAGENT_STATE_DIR/workspaces/w/lock"
                    pid() { sed 's/.*"pid":\([0-9]*\).*/\1/' "$lock"; }
                    for round in 1 2; do
                        w start w; w exec w sh -c "echo $round >>/root/rounds; sync"; shim=$(pid)
                        case $round in 1) kill -9 $shim ;; 2) read -r child rest </proc/$shim/task/$shim/children; kill -9 $child ;; esac
                        w wait w; echo $?; w status w | grep ^state
                    done
                    w start w; w exec w cat /root/rounds; w delete w 2>/dev/null; echo $?; w delete --force w"#,
                seconds: 300,
                code: 0,
                stdout: "w\nw\nw\n1\nstate      failed\nw\nw\n1\nstate      failed\nw\n1\n2\n1\nw\n",
            }
            logs_and_events_are_followed_until_the_workspace_has_ended {
                script: r#"w() { microagent --quiet "$@"; }
                    w create w --image "$IMAGE" --memory 128 --entrypoint 'echo one; until test -e /go; do sleep 0.1; done; seq 300000; echo last; exit 3' >/dev/null
                    (w start w --wait >waited; echo $? >code) & until w status w | grep -q '^state *running'; do :; done
                    w logs --follow w >followed & w events -f w | awk '{print $2}' >events & w --json logs -f w >documents &
                    w logs -f w | head -n 1; w wait w --timeout 1 2>&1; echo $?; w exec w touch /go; wait; cat waited code
                    (echo one; seq 300000; echo last) | cmp - followed && echo same; tr '\n' ' ' <events; echo
                    tail -n 1 documents | grep -c '^{"workspace":"w","text":".*last.n"}$'; w logs w | wc -c | awk '{print ($1 > 400000 && $1 <= 1048576)}'
                    w logs -f w | tail -n 1; w events -f w | tail -n 1 | sed 's/^[^ ]* *//'; w wait w --timeout 1; echo $?; w delete w"#,
                seconds: 240,
                code: 0,
                stdout: "one\nmicroagent: workspace w has not ended within 1 s\n124\nw\n3\nsame\n\
                         prepared starting running stopping failed \n1\n1\nlast\n\
                         failed       the workload ended with exit code 3\nw\n1\nw\n",
            }
            one_start_has_another_size_and_kernel {
                script: r#"w() { microagent --quiet "$@"; }
                    digest=$(microagent --json doctor | sed -n '/"installed"/,/}/s/.*"digest": "sha256:\(.*\)".*/\1/p')
                    sed 's/Linux version /LINUX version /' "$MICROAGENT_STATE_DIR/cas/blobs/sha256/$digest" >kernel
                    w create w --image "$IMAGE" --memory 128 --cpus 1 >/dev/null; banner="dmesg | grep -o 'L[IN]NUX version\|Linux version'"
                    w start w --profile tiny --cpus 2 --kernel kernel; w exec w -- sh -c "nproc; $banner; awk '/MemTotal/ {print (\$2 > 200000)}' /proc/meminfo"; w kill w
                    w start w --kernel /dev/null 2>/dev/null; echo $?; w start w --profile huge 2>&1 | head -n 1
                    w start w --wait=2 2>&1; echo $?; w exec w -- sh -c "nproc; $banner"; w delete -f w"#,
                seconds: 240,
                code: 0,
                stdout: "w\n2\nLINUX version\n1\nw\n1\nmicroagent: unknown profile \"huge\"\n\
                         w\nmicroagent: workspace w has not ended within 2 s\n124\n1\nLinux version\nw\n",
            }
            declared_outputs_of_a_run_are_copied {
                script: r#"make='mkdir -p /out/sub; echo data >/out/sub/file; echo b >/out/sub-; ln -s /etc/passwd /out/sub/link; chmod 751 /out/sub; ln -s ../out/sub/file /one'
                    microagent --quiet --json run --image "$IMAGE" --name r --output tree=/out/. --output one=/one --exec "$make" >document
                    cd r-outputs; find . | sort | tr '\n' ' '; cat one; stat -c %a tree/sub; readlink tree/sub/link
                    tree=$(cd tree; find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d' ' -f1)
                    grep -c -e "$tree" -e "$(sha256sum one | cut -d' ' -f1)" ../document; grep -E '"size": (5|7)' ../document; cd ..
                    microagent --quiet run --image "$IMAGE" --output-dir d --output gone=/gone --output there=/etc/group --exec true 2>&1; echo $?; ls -A d
                    microagent run --image "$IMAGE" --output-dir d/e --output gone=/gone --exec 'exit 3' 2>&1 | grep output; ls -A d/e
                    microagent --quiet run --image "$IMAGE" --name r --output tree=/out --exec "$make" 2>&1; echo $?"#,
                seconds: 240,
                code: 0,
                stdout: ". ./one ./tree ./tree/sub ./tree/sub- ./tree/sub/file ./tree/sub/link data\n751\n/etc/passwd\n2\n\
                         \x20     \"size\": 7,\n      \"size\": 5,\n\
                         microagent: output gone: there is no /gone in the guest\n125\nthere\n\
                         microagent: output gone: there is no /gone in the guest\n\
                         microagent: r-outputs/tree is a directory that exists already\n  remove it, or use another directory: --output-dir DIR\n125\n",
            }
            files_are_copied_between_the_host_and_a_workspace {
                script: r#"w() { microagent --quiet "$@"; }
                    w create w --image "$IMAGE" --memory 128 --output tree=/data/tree --output gone=/gone >/dev/null; w start w
                    mkdir -p tree/sub; echo one >tree/one; ln tree/one tree/sub/same; ln -s /outside tree/link; chmod 640 tree/one; touch -d '2001-02-03 04:05:06' tree/one
                    dd if=/dev/urandom of=tree/large bs=1M count=3 2>/dev/null; truncate -s 20M tree/hole; sum=$(sha256sum <tree/large)
                    w cp tree w:/data; w cp tree w:/data; w cp tree/. w:/data/tree/; w cp tree/one w:/etc/; echo $?
                    w exec w -- sh -c 'cd /data; find . | sort | tr "\n" " "; stat -c "%a %h %Y" tree/one; cat tree/sub/same; readlink tree/link; du -k tree/hole | cut -f1; sha256sum <tree/large; cat /etc/one; ln -s tree/one /data/alias; chown 7:8 tree/one' >seen
                    grep -v "$sum" seen; grep -c "$sum" seen; w exec w stat -c %u:%g /etc/one | grep -cx "$(id -u):$(id -g)"
                    w cp w:/data/alias kept; readlink kept; w cp -L w:data/alias followed; cat followed; mkdir into; w cp w:/data/tree into; w cp w:/data/tree/. into
                    w artifacts get w tree --to running; cmp running/large tree/large; w artifacts list w | head -2 | tail -1
                    w cp w:/none x 2>&1; w cp w:/data/tree followed 2>&1; mkdir -p over/tree/one; w cp w:/data/tree over 2>&1; w stop w
                    w artifacts list w; w --json artifacts get w tree --to json | grep -E 'name|path|size'; w artifacts get w gone 2>&1; echo $?
                    w cp w:/data/alias stopped; readlink stopped; w cp w:/data into/; cmp into/data/tree/large tree/large
                    for copy in tree running json into/tree into/data/tree; do (cd $copy; find . -exec stat -c '%n %a %h %F %Y' {} \; | grep -v directory | sort | sha256sum); done | sort -u | wc -l
                    owner=$(id -u):$(id -g); [ $owner = 0:0 ] && owner=7:8; stat -c %u:%g into/tree/one json/one | grep -cx $owner
                    w delete w"#,
                seconds: 300,
                code: 0,
                stdout: "w\n0\n. ./hole ./large ./link ./one ./sub ./sub/same ./tree ./tree/hole ./tree/large ./tree/link ./tree/one ./tree/sub ./tree/sub/same 640 2 981173106\n\
                         one\n/outside\n0\none\n1\n1\ntree/one\none\nrunning\ntree  directory  24117252  /data/tree\n\
                         microagent: there is no /none in the guest\nmicroagent: cannot write followed: a directory cannot replace a file\n\
                         microagent: cannot write tree/one: a file cannot replace a directory\nw\n\
                         NAME  TYPE       SIZE      PATH\ntree  directory  24117252  /data/tree\ngone  missing              /gone\n\
                         \x20 \"name\": \"tree\",\n  \"path\": \"/data/tree\",\n  \"size\": 24117252,\n\
                         microagent: there is no /gone in the guest\n1\ntree/one\n1\n2\nw\n",
            }
            a_workspace_that_does_not_run_is_booted_for_its_files {
                script: r#"w() { microagent --quiet "$@"; }; state() { w status w | sed -n 's/^state *//p'; }
                    w create w --image "$IMAGE" --memory 128 --cpus 1 --output out=/root/out --entrypoint 'echo run >>/root/runs; sync; exec sleep 1000' >/dev/null
                    mkdir tree; echo one >tree/one; ln -s one tree/link; w cp tree w:/root/; w cp w:/root/tree/one got; cat got; state; w diff w
                    w start w >/dev/null; until w exec w grep run /root/runs; do :; done; w exec w -- sh -c 'cat /root/tree/link; echo kept >/root/out; sync'; w kill w --reason why >/dev/null
                    w artifacts list w | tail -n 1; w cp w:/root/out out; cat out; w diff w | tail -n 1; state; w status w | grep detail
                    w cp tree/one w:/none/x 2>&1; echo $?; w cp tree/one w:/root/a & w cp tree w:/root/b & wait; w cp w:/root/runs .; cat runs; w events w | sed 's/^[^ ]* *//'
                    env microagent --quiet cp tree w:/root/c & until w status w | grep -q starting; do :; done; kill -9 $!; wait $!; state; w cp tree w:/root/d; w diff w | grep -c -e /root/a -e /root/b
                    w commit w oci:image:v1 | cut -c1-12; w delete w"#,
                seconds: 300,
                code: 0,
                stdout: "one\nprepared\nC /root\nA /root/tree\nA /root/tree/link\nA /root/tree/one\n\
                         run\none\nout   file  5     /root/out\nkept\nA /root/tree/one\nstopped\ndetail     why\n\
                         microagent: cannot write /none/x: No such file or directory (os error 2)\n1\nrun\n\
                         prepared\nprepared     booted to copy files into it\nstarting\nrunning\nstopped      why\n\
                         stopped      booted to replay the journal of its file system\nstopped      booted to copy files into it\nstopped      booted to copy files into it\n\
                         stopped\n4\noci:image:v1\nw\n",
            }
            a_workspace_is_compared_cloned_and_committed {
                script: r#"w() { microagent --quiet "$@"; }
                    w create w --image "$IMAGE" --memory 128 >/dev/null; w diff w; w start w >/dev/null; w diff w 2>&1
                    w exec w -- sh -c 'echo new >/added; mkdir -p /dir/sub; ln /added /dir/hard; rm /bin/ls; chmod 4710 /etc/group; chown 3:70000 /etc/passwd
                        rm -r /home; echo x >/home; mknod /dir/null c 1 3; mkfifo /dir/fifo; ln -s /added /dir/link; touch -d @1000000000 /dir/sub; head -c 3000000 /dev/zero >/dir/zeros; echo x >>/etc/hosts; echo t >/tmp/t; rm /tmp/t'
                    w commit w oci:out:v1 2>&1; w stop w >/dev/null; w diff w; w --json diff w | grep -c path
                    w clone w c; w clone w c 2>&1; w status c | grep -E 'state|workspace'; w start c; w exec c sh -c 'cat /added; rm /added; hostname'; w stop c >/dev/null; w diff c | grep added; w diff w | grep added
                    w commit w oci:out:v1 | cut -c1-17; w commit w oci:out:v2 >/dev/null; grep -o '"v[0-9]"' out/index.json; w commit w docker.io/x:y 2>&1 | head -1; w commit w oci:.:v1 2>&1
                    list='find / -xdev ! -path "/etc/host*" -exec stat -c "%n %f %u:%g %t:%T %F %h %Y" {} \; | grep -v " directory " | sort; find / -xdev -type d -exec stat -c "%n %f %u:%g" {} \; | sort; cat /added /home'
                    w start w >/dev/null; w exec w sh -c "$list" >kept; w delete -f w c; w run --image oci:out:v1 --exec "$list" >run; cmp kept run && wc -l <run | awk '{print ($1 > 200)}'; tail -2 run"#,
                seconds: 300,
                code: 0,
                stdout: "microagent: workspace w is running\n  stop it first: microagent stop w\n\
                         microagent: workspace w is running\n  stop it first: microagent stop w\n\
                         A /added\nC /bin\nD /bin/ls\nA /dir\nA /dir/fifo\nA /dir/hard\nA /dir/link\nA /dir/null\nA /dir/sub\nA /dir/zeros\n\
                         C /etc\nC /etc/group\nC /etc/passwd\nC /home\n14\n\
                         c\nmicroagent: workspace \"c\" already exists\n  use another name, or delete it first: microagent delete c\n\
                         workspace  c\nstate      prepared\nc\nnew\nc\nA /added\noci:out:v1 sha256\n\"v1\"\n\"v2\"\n\
                         microagent: docker.io/library/x:y is not an image of an OCI layout\nmicroagent: . is not an OCI image layout\n\
                         w\nc\n1\nnew\nx\n",
            }
            a_workspace_is_made_from_a_file_system_and_gets_files {
                script: r#"w() { microagent --quiet "$@"; }
                    w rootfs build --image "$IMAGE" --allow-mutable --out base.ext4 >/dev/null; sum=$(sha256sum <base.ext4); cp base.ext4 other.ext4
                    digest=$(microagent --json doctor | sed -n '/"installed"/,/}/s/.*"digest": "sha256:\(.*\)".*/\1/p'); cp "$MICROAGENT_STATE_DIR/cas/blobs/sha256/$digest" kernel
                    w create --id agent-1 --role mine --kernel kernel --rootfs base.ext4 --memory 128; [ "$(sha256sum <base.ext4)" = "$sum" ] && echo unchanged
                    head -c 2000000 /dev/zero | dd of=base.ext4 conv=notrunc 2>/dev/null; w list | grep -o "$PWD/base.ext4" | sed "s#$PWD#HERE#"; w start agent-1
                    list='find / -xdev ! -path "/etc/host*" -exec stat -c "%n %f %u:%g %t:%T %F %h %Y" {} \; | grep -v " directory " | sort; find / -xdev -type d -exec stat -c "%n %f %u:%g" {} \; | sort'
                    w exec agent-1 -- sh -c 'hostname; echo kept >/kept; mknod /null c 1 3; chown 7:8 /null; rm -r /home'; w exec agent-1 sh -c "$list" >kept; w stop agent-1
                    w --json events agent-1 | grep -o '"role": *"[a-z]*"' | sort -u; w diff agent-1; w clone agent-1 c; w diff c; rm base.ext4
                    w status c | grep -E '^(image|differs)'; w --json status agent-1 --refresh | sed -n '/"verification"/{n;p}'
                    w commit agent-1 oci:out:v1 | cut -c1-17; w run --kernel kernel --image oci:out:v1 --exec "$list" >run; cmp kept run && wc -l <run | awk '{print ($1 > 200)}'
                    mkdir -p tree/sub; echo one >tree/one; echo two >tree/sub/two; ln -s one tree/link; chmod 700 tree tree/one; echo conf >conf; chmod 604 conf; ln -s conf way
                    printf 'name: f\nrootfs: other.ext4\nresources: {memoryMiB: 128}\nfiles:\n- {src: conf, dst: /etc/app/app.conf, mode: "0640"}\n- {src: way, dst: /srv/}\n- {src: tree, dst: /tmp}\n' >files.yaml
                    w create --file files.yaml --setup 'stat -c "%n %a %u:%g" /etc/app /etc/app/app.conf /srv/way /tmp /tmp/one /tmp/sub/two >/seen; cat /etc/app/app.conf /srv/way /tmp/link /tmp/sub/two >>/seen'
                    w cp f:/seen seen; cat seen; sed 's#/srv/#/etc/group/x/#; s/name: f/name: g/' files.yaml >refused.yaml; w create --file refused.yaml 2>&1; echo $?
                    w delete agent-1 c f; w list; ls -A "$MICROAGENT_STATE_DIR/workspaces" | wc -l; ls "$MICROAGENT_STATE_DIR/cas/roots" | grep -c workspace"#,
                seconds: 300,
                code: 1,
                stdout: "agent-1\nunchanged\nHERE/base.ext4\nagent-1\nagent-1\nagent-1\n\"role\": \"mine\"\nD /home\nA /kept\nA /null\nc\nD /home\nA /kept\nA /null\n\
                         \x20   \"ok\": true,\noci:out:v1 sha256\n1\nf\n\
                         /etc/app 755 0:0\n/etc/app/app.conf 640 0:0\n/srv/way 604 0:0\n/tmp 1777 0:0\n/tmp/one 700 0:0\n/tmp/sub/two 644 0:0\nconf\nconf\none\ntwo\n\
                         microagent: files[1]: dst /etc/group/x/: cannot create /etc/group/x/: Not a directory (os error 20)\n1\n\
                         agent-1\nc\nf\nNAME  STATE  EXIT  SINCE  IMAGE  CREATED\n0\n0\n",
            }
            a_paused_workspace_does_nothing_until_it_is_resumed {
                script: r#"w() { microagent --quiet "$@"; }; state() { w status w | sed -n 's/^state *//p'; }; lines() { w logs w | wc -l; }
                    w create w --image "$IMAGE" --memory 128 --cpus 2 --entrypoint 'while :; do echo tick; sleep 0.05; done' >/dev/null; w start w
                    mkfifo input; w exec -i w cat <input >cat & exec 5>input; echo before >&5; until grep -q before cat; do :; done
                    w pause w; w pause w; state; w exec w true 2>&1; echo $?; w connect w --send true 2>&1; echo $?; w wait w --timeout 1 2>/dev/null; echo $?; one=$(lines)
                    echo meanwhile >&5; w wait w --timeout 3 2>/dev/null; echo $(($(lines) - one)) $(wc -l <cat)
                    w resume w; w resume w; state; until [ $(lines) -gt $((one + 3)) ]; do :; done; exec 5>&-; wait; cat cat
                    before=$(date +%s); guest=$(w exec w date +%s); [ $guest -ge $((before - 2)) ] && [ $guest -le $(($(date +%s) + 1)) ] && echo the clock is right
                    w pause w; w --json stats w | grep '"state"'; w stop w; state; w start w; w pause w; w kill w --reason why; state; w pause w 2>/dev/null; echo $?
                    w events w | awk '{print $2}' | tr '\n' ' '; echo; w delete w"#,
                seconds: 240,
                code: 0,
                stdout: "w\nw\nw\npaused\nmicroagent: workspace w: it is paused\n  let it run again: microagent resume w\n125\n\
                         microagent: workspace w: it is paused\n  let it run again: microagent resume w\n125\n124\n\
                         0 1\nw\nw\nrunning\nbefore\nmeanwhile\nthe clock is right\n\
                         w\n    \"state\": \"paused\",\nw\nstopped\nw\nw\nw\nstopped\n1\n\
                         prepared starting running paused running paused running stopping stopped starting running paused stopped \nw\n",
            }
            a_quarantined_workspace_is_severed_and_only_killed {
                script: r#"w() { microagent --quiet "$@"; }
                    w create q --image "$IMAGE" --memory 128 --entrypoint 'echo up; sleep 1000' >/dev/null; w start q
                    (w exec q -- sh -c 'echo at work; sleep 1000' 2>/dev/null; echo $?) >severed & until grep -q 'at work' severed; do :; done
                    w exec q -- sh -c 'echo data >/data; sync'; w quarantine q --reason suspicious; wait $!; cat severed; w status q | grep -E '^(state|detail)'; captured=$(w status q | sed -n 's/^captured *//p'); w quarantine q
                    w exec q true 2>&1; w stop q 2>/dev/null; echo $?; w halt q 2>/dev/null; echo $?; w resume q 2>/dev/null; echo $?; w logs -f q; w wait q; echo $?
                    w delete q 2>/dev/null; echo $?; w kill q; w status q | grep ^state
                    (cd "$captured"; stat -c %a . facts.json; ls | tr '\n' ' '; grep -c -e microagent-supervisor -e '"memoryBytes"' facts.json; cmp root.presence ../../root.presence; cat output.log)
                    w clone q c; cp --sparse=always "$captured"/root.* "$MICROAGENT_STATE_DIR/workspaces/c/"; w cp c:/data .; cat data; w events q | grep -c 'captured in'; w delete c; w start q; w exec q echo again; w pause q; w quarantine q; w delete --force q"#,
                seconds: 240,
                code: 0,
                stdout: "q\nq\nat work\n125\nstate      quarantined\ndetail     suspicious\nq\n\
                         microagent: workspace q: it is quarantined\n  kill it: microagent kill q\n1\n1\n1\nup\nq\n1\n\
                         1\nq\nstate      stopped\n\
                         700\n600\nconsole.log event.json events.jsonl facts.json output.log root.delta root.presence spec.json 2\nup\nc\ndata\n1\nc\n\
                         q\nagain\nq\nq\nq\n",
            }
            statistics_are_those_of_the_host {
                script: r#"w() { microagent --quiet "$@"; }; field() { w --json stats w | sed -n "s/^    \"$1\": \([0-9]*\),*/\1/p"; }
                    w create w --image "$IMAGE" --memory 160 --cpus 1 >/dev/null; w stats w 2>/dev/null; echo $?; w stats; w start w
                    memory=$(field memoryBytes) written=$(field writtenBytes) cpu=$(field cpuMicros) uptime=$(field uptimeMillis)
                    w exec w -- sh -c 'head -c 40000000 /dev/zero >/dev/shm/x; dd if=/dev/zero of=/x bs=1M count=20 conv=fsync 2>/dev/null; seq 200000 | tail -n 1'
                    echo $(($(field memoryBytes) - memory > 35000000)) $(($(field memoryBytes) < 500000000)) $(($(field writtenBytes) - written >= 20971520))
                    echo $(($(field readBytes) > 100000)) $(($(field cpuMicros) > cpu)) $(($(field uptimeMillis) > uptime)) $(field memoryMiB)
                    w stats | awk '{print $1, $2}'; w delete -f w"#,
                seconds: 240,
                code: 0,
                stdout: "1\nNAME  STATE  UPTIME  CPU  MEMORY  READ  WRITTEN\nw\n200000\n1 1 1\n1 1 1 160\nNAME STATE\nw running\nw\n",
            }
            readiness_is_found_out_from_the_guest {
                script: r#"w() { microagent --quiet "$@"; }; probe() { w --json status w | sed -n '/"readiness"/,$p' | tr -d ' \n' | grep -o '"[a-zA-Z]*Ready":{"ready":[a-z]*\|"detail":"[^"]*"' | sed 's/{"ready"//'; }
                    w create w --image "$IMAGE" --memory 128 --entrypoint 'sleep 1000' >/dev/null; w start w; probe; w exec w rm /bin/sh; probe | head -n 4
                    w status w | grep 'not ready' | cut -c1-30; w pause w; w status w | grep -c 'not ready'; probe | head -n 2; w delete -f w"#,
                seconds: 200,
                code: 0,
                stdout: "w\n\"guestReady\"::true\n\"shellReady\"::true\n\"execReady\"::true\n\"resultReady\"::false\n\"detail\":\"theworkloadhasnotended\"\n\
                         \"mediationReady\"::false\n\"detail\":\"theworkspacehasnomediation\"\n\
                         \"guestReady\"::true\n\"shellReady\"::false\n\"detail\":\"theimagehasno/bin/sh\"\n\"execReady\"::true\n\
                         not ready  shell: the image ha\nw\n0\n\"guestReady\"::false\n\"detail\":\"itispaused\"\nw\n",
            }
            a_supervised_workspace_is_started_again_by_its_policy {
                script: r#"w() { microagent --quiet "$@"; }; runs() { until [ $(grep -c ': started$' notices) -ge $1 ]; do :; done; }
                    w create w --image "$IMAGE" --memory 128 --restart on-failure --entrypoint 'test -e /once && exec sleep 1000; touch /once; sync; exit 3' >/dev/null
                    env microagent supervise w 2>notices & supervisor=$!; runs 2; microagent supervise w 2>&1
                    kill -9 $(sed 's/.*"pid":\([0-9]*\).*/\1/' "$MICROAGENT_STATE_DIR/workspaces/w/lock"); runs 3
                    w exec w -- sh -c 'echo c >/proc/sysrq-trigger' >/dev/null 2>&1; runs 4; kill -TERM $supervisor; wait $supervisor; echo $?; w status w | grep ^state
                    grep -e failed -e again notices | sed 's/failed: the guest .*/failed: the guest/'
                    w supervise w & until w exec w true; do :; done; w halt w; wait $!; echo $?; w supervise w; echo $?; w delete w"#,
                seconds: 300,
                code: 0,
                stdout: "microagent: workspace w is already supervised\n143\nstate      running\n\
                         microagent: w: failed: the workload ended with exit code 3\nmicroagent: w: starts again in 1 s\n\
                         microagent: w: failed\nmicroagent: w: starts again in 2 s\n\
                         microagent: w: failed: the guest\nmicroagent: w: starts again in 4 s\n\
                         w\n0\n0\nw\n",
            }
            the_limits_of_a_workspace_hold_when_nobody_watches {
                script: r#"w() { microagent --quiet "$@"; }; end() { w status $1 | grep -E '^(state|detail)'; }
                    w create late --image "$IMAGE" --memory 128 --cpus 1 --timeout 6 --entrypoint 'trap "echo asked; exit 0" TERM; mkfifo /f; exec 3<>/f; while :; do read -r line <&3; done' >/dev/null
                    w create idle --image "$IMAGE" --memory 128 --cpus 1 --ttl 6 --entrypoint 'sleep 1000' >/dev/null
                    w start late; w start idle
                    # A session is use, however long it is; a question about the guest is none.
                    w exec idle -- sh -c 'sleep 9; echo used'; w status idle | grep ^state; w wait idle; echo $?; end idle
                    w wait late; echo $?; end late; w logs late; w events late | awk '{print $2}' | tail -n 2 | paste -s
                    w start idle; w pause idle; w wait idle; end idle
                    printf 'image: %s\nentrypoint: sleep 1000\nresources: {memoryMiB: 128, cpuCount: 1}\n' "$IMAGE" >idle.yaml; w --json apply idle --file idle.yaml | tr -d ' \n'; echo
                    w start idle; echo 'ttlSeconds: 9' >>idle.yaml; w apply idle --file idle.yaml 2>&1; w delete -f idle late"#,
                seconds: 300,
                code: 0,
                stdout: "late\nidle\nused\nstate      running\nidle\n0\nstate      stopped\ndetail     it was idle for 6 s\n\
                         late\n1\nstate      failed\ndetail     its time limit of 6 s has passed\nasked\nstopping\tfailed\n\
                         idle\nidle\nidle\nstate      stopped\ndetail     it was idle for 6 s\n\
                         {\"workspace\":\"idle\",\"changed\":[\"ttlSeconds\"]}\n\
                         idle\nmicroagent: ttlSeconds cannot be changed while workspace idle runs\n  stop it first: microagent stop idle\nidle\nlate\n",
            }
            a_supervised_workspace_whose_agent_hangs_is_started_again {
                // A VM whose processes are stopped looks like a guest that hangs. The other one answers. A guest on engine
                // `qemu` rarely never boots (`FIRST_BOOT_TIMEOUT`), and is started again, too.
                script: r#"w() { microagent --quiet "$@"; }; started() { until [ $(grep -c "^microagent: $2: started$" notices) -ge $1 ]; do :; done; }
                    for name in hangs lives; do w create $name --image "$IMAGE" --memory 128 --cpus 1 --restart always >/dev/null; done
                    env microagent supervise hangs lives 2>notices & supervisor=$!; started 1 hangs; started 1 lives
                    shim=$(sed 's/.*"pid":\([0-9]*\).*/\1/' "$MICROAGENT_STATE_DIR/workspaces/hangs/lock")
                    read -r child rest </proc/$shim/task/$shim/children; kill -STOP $child
                    w wait hangs; echo $?; started 2 hangs; w exec hangs echo again; w exec lives echo lives; w events hangs | grep -o 'failed .*' | grep -v 'did not report within'
                    kill $supervisor; wait $supervisor; grep -c '^microagent: hangs: check failed' notices; grep -c '^microagent: lives: check' notices; w delete -f hangs lives"#,
                seconds: 400,
                code: 0,
                stdout: "hangs\n1\nagain\nlives\nfailed       unhealthy: the agent does not answer: no answer within 20 s\n3\n0\nhangs\nlives\n",
            }
            an_unhealthy_workspace_is_killed_and_has_failed {
                script: r#"w() { microagent --quiet "$@"; }
                    cat >h.yaml <<'END'
health: {httpGet: /healthz, port: 80, intervalSeconds: 1, timeoutSeconds: 5, retries: 2}
restart: always
entrypoint: 'echo 200 >/code; while :; do printf "HTTP/1.1 $(cat /code) x\r\n\r\n" | nc -l -p 80 >>/requests; done'
END
                    w create h --file h.yaml --image "$IMAGE" --memory 128 >/dev/null; w create e --image "$IMAGE" --memory 128 >/dev/null
                    printf 'image: %s\nresources: {memoryMiB: 128}\nhealth: {exec: [sh, -c, "echo why; test ! -e /sick"], intervalSeconds: 1, retries: 1}\n' "$IMAGE" >e.yaml
                    w start e; w apply e --file e.yaml
                    w --json supervise h e --max-restarts 0 >outcomes & supervisor=$!
                    until w exec h grep -q 'GET /healthz' /requests 2>/dev/null; do :; done; w exec h -- sh -c ': >/requests; echo 503 >/code'
                    w exec e touch /sick; wait $supervisor; echo $?; w status h | grep -E '^(state|detail)'; w status e | grep -E '^(state|detail)'
                    tr -d ' \n' <outcomes; echo; w delete h e"#,
                seconds: 300,
                code: 0,
                stdout: "e\ne\n1\nstate      failed\ndetail     unhealthy: HTTP status 503\nstate      failed\ndetail     unhealthy: exit code 1: why\n\
                         [{\"workspace\":\"h\",\"state\":\"failed\",\"restarts\":0,\"why\":\"itwasstartedagain0times,whichisthelimit\"},\
                         {\"workspace\":\"e\",\"state\":\"failed\",\"restarts\":0,\"why\":\"unhealthy:exitcode1:why\"}]\nh\ne\n",
            }
            mediation_connects_the_guest_to_one_server {
                script: r#"w() { microagent --quiet "$@"; }; port=$((20000 + $$ % 10000)); tar -C "$PROGRAMS" -cf programs.tar .
                    set -- --image "$IMAGE" --memory 128 --cpus 1 --bundle programs=programs.tar:/programs:ro --mediation 5000=127.0.0.1:$port
                    hide() { sed "s/$port/PORT/g"; }; w run "$@" --exec true 2>&1 | hide
                    w create m "$@"; w create o "$@" --mediation-optional; w start m 2>&1 | hide
                    w start o; ask='echo question | /programs/vsock 5000; echo $?'; w exec o -- sh -c "$ask"
                    serve() { busybox nc -ll -p $port -e wc -c & server=$!; until busybox nc 127.0.0.1 $port </dev/null >/dev/null 2>&1; do :; done; }
                    serve; w run "$@" --exec 'seq 100000 | /programs/vsock 5000; echo | /programs/vsock 5001 2>/dev/null; echo $?'
                    w start m; for n in 1 2 3; do w exec m -- sh -c "$ask" >answer$n & asking="$asking $!"; done; wait $asking; paste -s answer?
                    w exec o -- sh -c "$ask"; kill $server; w exec m -- sh -c "$ask"; ready() { w --json status m | tr -d ' \n' | grep -o '"mediationReady":{"ready":[a-z]*'; }; ready
                    serve; w exec m -- sh -c "$ask"; ready; kill $server
                    # Nobody in the guest asks any more.
                    w events -f m | grep -m 3 -c 'cannot be reached'
                    for name in o m; do w events $name | grep -o 'the mediation.*' | hide; done
                    busybox nc -ll -p $port -e sh -c 'read -r line && echo $line >>received && cat >/dev/null && echo severed >>received' & server=$!
                    w exec -d m -- sh -c '(echo hello; sleep 1000) | /programs/vsock 5000'; until grep -q hello received 2>/dev/null; do :; done
                    w quarantine m; until grep severed received; do :; done; kill $server; w delete --force m o"#,
                seconds: 300,
                code: 0,
                stdout: "microagent: the mediation target 127.0.0.1:PORT cannot be reached: Connection refused (os error 111)\n  start the server on 127.0.0.1:PORT, or make it optional: --mediation-optional\n\
                         m\no\nmicroagent: the mediation target 127.0.0.1:PORT cannot be reached: Connection refused (os error 111)\n  start the server on 127.0.0.1:PORT, or make it optional: --mediation-optional\n\
                         o\n0\n588895\n1\nm\n9\t0\n9\t0\n9\t0\n9\n0\n0\n\"mediationReady\":{\"ready\":false\n9\n0\n\"mediationReady\":{\"ready\":true\n3\n\
                         the mediation target 127.0.0.1:PORT cannot be reached: Connection refused (os error 111)\nthe mediation target 127.0.0.1:PORT is reached again\n\
                         the mediation target 127.0.0.1:PORT cannot be reached: Connection refused (os error 111)\nthe mediation target 127.0.0.1:PORT cannot be reached: Connection refused (os error 111)\nthe mediation target 127.0.0.1:PORT is reached again\n\
                         the mediation target 127.0.0.1:PORT cannot be reached: Connection refused (os error 111)\nm\nsevered\nm\no\n",
            }
            commands_have_terminals_that_are_left_as_they_were {
                script: r##"w() { microagent --quiet "$@"; }; export NO_COLOR=1
                    w create t --image "$IMAGE" --memory 128 >/dev/null; w start t >/dev/null
                    mkfifo keys; exec 5<>keys
                    # Runs a script on a terminal, and then says whether that is as before.
                    on_terminal() { { echo 'stty rows 24 cols 80; stty -g >before'; cat; echo 'code=$?; stty -g | cmp - before && echo sane $code'; } >inner; TERM=vt100 script -qefc 'sh inner' /dev/null <keys >shown 2>&1; tr -d '\r' <shown; }
                    seen() { until grep -q "$1" shown; do sleep 0.05; done; }
                    echo 'microagent exec -t t sh -c "stty size; echo \$TERM; tty; exit 7"' | on_terminal
                    : >shown; { seen up; stty -F "$(cat name)" rows 50 cols 132; } &
                    echo 'tty >name; microagent exec -it t sh -c "trap \"trap : WINCH; stty size; exit 9\" WINCH; echo up; while :; do sleep 0.1; done"' | on_terminal; wait
                    : >shown; { seen up; printf '\003' >&5; } &
                    echo 'microagent exec -t t sh -c "echo up; sleep 1000"' | on_terminal; wait
                    : >shown; { seen up; kill -TERM $(cat pid); } &
                    echo 'sh -c "echo \$\$ >pid; exec microagent exec -t t sh -c \"echo up; sleep 2000\""' | on_terminal; wait
                    for signal in ABRT KILL; do
                        : >shown; { seen up; kill -$signal $(cat pid); } &
                        echo 'sh -c "echo \$\$ >pid; exec microagent exec -t t sh -c \"setsid sleep 3000 & echo up; wait\""; code=$?; until stty -g | cmp -s - before; do :; done; (exit $code)' | on_terminal | tail -n 1; wait
                    done
                    : >shown; { seen '\[24;1H'; stty -F "$(cat name)" rows 50 cols 132; seen '\[50;1H'; printf ':q!\r' >&5; } &
                    echo 'tty >name; microagent exec -t t vi /etc/group' | on_terminal | tail -n 1 | grep -o 'sane.*'; wait
                    until ! w exec t ps | grep -q 'sleep [23]000'; do :; done
                    : >shown; { seen '# '; echo 'echo up; sleep 4000' >&5; seen ^up; printf '\035' >&5; } &
                    echo 'microagent connect t' | on_terminal | tail -n 2; wait
                    : >shown; { seen '# '; echo 'echo up; sleep 4001' >&5; seen ^up; printf '\020\021' >&5; } &
                    echo 'microagent connect t' | on_terminal | tail -n 2; wait
                    w exec t ps | grep -c 'sleep [4]00[01]'
                    w exec -d t -- sh -c ": $(printf %60s | tr ' ' x)MARK; sleep 6000; :"
                    : >shown; { seen xxxx; grep -c MARK shown >narrow; stty -F "$(cat name)" rows 50 cols 132; seen MARK; printf q >&5; } &
                    echo 'tty >name; microagent exec -t t top -d 1' | on_terminal | tail -n 1 | grep -o 'sane.*'; wait; cat narrow
                    : >shown; { seen 'Ctrl-C'; w exec t -- sh -c 'echo from the guest >/dev/console'; seen 'from the guest'; printf '\003' >&5; } &
                    echo 'trap : INT; microagent connect t --console' | on_terminal | grep -o -e 'from the guest' -e 'sane.*'; wait
                    : >shown; { seen '# '; echo 'exit 3' >&5; } &
                    echo 'microagent --quiet connect t' | on_terminal | tail -n 1; wait
                    w connect t --send 'echo one; echo two >&2; exit 5' 2>&1; echo $?; w connect t --send 'echo begin; sleep 5000' --timeout 2 2>/dev/null; echo $?
                    w exec t ps | grep -c 'sleep [5]000'; w delete --force t >/dev/null"##,
                seconds: 240,
                code: 0,
                stdout: "24 80\nvt100\n/dev/pts/0\nsane 7\nup\n50 132\nsane 9\nup\n^Csane 130\n\
                         up\nmicroagent: interrupted\nsane 143\nsane 134\nsane 137\nsane 0\n\
                         microagent: left t; its shell and what runs in it go on\nsane 0\n\
                         microagent: left t; its shell and what runs in it go on\nsane 0\n2\nsane 0\n0\nfrom the guest\nsane 130\nsane 3\n\
                         one\ntwo\n5\nbegin\n124\n0\n",
            }
            a_workload_that_takes_everything_leaves_room_for_commands {
                script: r#"w() { microagent --quiet "$@"; }
                    w create bomb --image "$IMAGE" --memory 128 --cpus 1 --entrypoint 'bomb() { bomb | bomb & }; bomb; sleep 10000' >/dev/null
                    w create hog --image "$IMAGE" --memory 128 --cpus 1 --entrypoint 'for size in 512 256 128 64 32 16 8 4 2 1; do fallocate -l ${size}M /big$size; done 2>/dev/null
                        cat /dev/zero >/rest; echo 1 >/proc/sys/fs/file-max; head -c 30000000 /dev/zero >/dev/shm/x; while :; do tail -c 100000000 /dev/zero; echo filled; done' >/dev/null
                    w start bomb >/dev/null & w start hog >/dev/null; wait
                    until [ "$(w exec bomb cat /sys/fs/cgroup/microagent-1/pids.current)" -gt 400 ]; do :; done; w exec bomb echo alive
                    w exec --timeout 2 bomb -- sh -c 'setsid sleep 7777 & sleep 7777' 2>/dev/null; echo $?; w exec bomb ps | grep -c 'sleep [7]777'; w kill bomb
                    until w logs hog | grep -q filled; do :; done; w exec hog echo alive
                    w exec hog -- tail -c 100000000 /dev/zero; echo $?; w exec hog -- sh -c 'echo x >/y' 2>/dev/null; echo $?; w exec hog echo alive
                    w exec hog yes | { head -c 100000 >/dev/null; w exec hog echo beside; }
                    w exec -d hog -- sh -c 'echo 1000000 >/proc/sys/fs/file-max; echo $$ >/dev/shm/y; exec sleep 8888'; until w exec hog ps | grep -q 'sleep [8]888'; do :; done
                    w --json exec -d hog sleep 9999 | grep -c '"pid": [0-9]'; w kill hog; w delete bomb hog"#,
                seconds: 300,
                code: 0,
                stdout: "alive\n124\n0\nbomb\nalive\n137\n1\nalive\nbeside\n1\nhog\nbomb\nhog\n",
            }
        }
    };
}

pub(crate) use with_workspaces;
