//! Workspaces without a VM: what is validated before anything happens, and many at once. What their
//! VMs do is in the list for every engine (`run_list.rs`).

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::registry::{CREDENTIALS, Registry};
use microagent_tests::{built_kernel, lab, or_skip, root_or_skip, tool};

/// Runs a script with `w`, which is `microagent` on engine `qemu`, and returns what it prints on
/// both outputs.
fn output(host: &Host, script: &str, image: &str) -> String {
    let script = format!("exec 2>&1\nw() {{ microagent --engine qemu \"$@\"; }}\n{script}");
    let mut shell = host.shell(&script);
    shell.variable("IMAGE", image).finish().text()
}

#[test]
fn documents_are_validated_before_anything_happens() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(Host::new());
    let script = r#"mkdir -p project && cd project
        printf 'name: a\nresources:\n  memory: 512\n' >microagent.yaml; w create; echo $?
        printf 'name: a\nimage: %s\nenv: {PORT: 80}\ndisks: [{name: d, path: d.ext4, mountpoint: /d}]\n' "$IMAGE" >microagent.yaml
        w create; echo $?; truncate -s 16M d.ext4; mke2fs -q d.ext4
        w create --dry-run -e B=1 --cpus 1 | sed "s#$PWD#HERE#"; echo $?
        echo '{"name": "b", "image": "'"$IMAGE"'", "profile": "tiny"}' | w create --dry-run --memory 300 --json - ; echo $?
        w create c --file absent.yaml; echo $?; w start a; echo $?; w delete a; echo $?; w list"#;
    let expected = r#"microagent: reading microagent.yaml
microagent: microagent.yaml:3: unknown field "memory"; did you mean memoryMiB?
  the fields: microagent spec --schema
2
microagent: reading microagent.yaml
microagent: cannot use disk d (HERE/d.ext4): No such file or directory (os error 2)
1
microagent: reading microagent.yaml
{
  "name": "a",
  "role": "workload",
  "image": "oci:/nowhere:latest",
  "resources": {
    "memoryMiB": 512,
    "cpuCount": 1
  },
  "restart": "never",
  "shell": "/bin/sh",
  "hostname": "a",
  "env": {
    "B": "1",
    "PORT": "80"
  },
  "network": {
    "mode": "isolated"
  },
  "disks": [
    {
      "name": "d",
      "path": "HERE/d.ext4",
      "mountpoint": "/d",
      "mode": "ro"
    }
  ]
}
0
{
  "name": "b",
  "role": "workload",
  "image": "oci:/nowhere:latest",
  "profile": "tiny",
  "resources": {
    "memoryMiB": 300,
    "cpuCount": 1,
    "sizeMiB": 512
  },
  "restart": "never",
  "shell": "/bin/sh",
  "hostname": "b",
  "network": {
    "mode": "isolated"
  }
}
0
microagent: cannot read absent.yaml: No such file or directory (os error 2)
1
microagent: there is no workspace "a"
  list them: microagent list
1
0
NAME  STATE  EXIT  SINCE  IMAGE  CREATED
"#;
    let text = output(&host, script, "oci:/nowhere:latest");
    let here = host.path("project").display().to_string();
    assert_eq!(text.replace(&here, "HERE"), expected);
    host.assert_clean();
}

#[test]
fn many_workspaces_are_created_and_deleted_at_once() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let script = r#"names=$(seq -f w%g 30)
        for name in $names; do w --quiet create $name --image "$IMAGE" >>created & done; wait; sort -V created | tr '\n' ' '; echo
        w list | grep -c prepared; w ps; w create w7 --image "$IMAGE"; echo $?
        du -s "$MICROAGENT_STATE_DIR"/workspaces | awk '{print ($1 < 1000)}'
        w cache gc --dry-run >/dev/null; w delete $names absent | wc -l; w list
        ls -A "$MICROAGENT_STATE_DIR"/workspaces | wc -l; ls "$MICROAGENT_STATE_DIR"/cas/roots | grep -c workspace"#;
    let created: String = (1..=30).map(|number| format!("w{number} ")).collect();
    let expected = format!(
        "{created}\n30\nNAME  STATE  EXIT  SINCE  IMAGE  CREATED\nmicroagent: workspace \"w7\" already exists\n  \
         use another name, or delete it first: microagent delete w7\n1\n1\n30\n\
         NAME  STATE  EXIT  SINCE  IMAGE  CREATED\n0\n0\n"
    );
    assert_eq!(output(&host, script, &layout.reference("latest")), expected);
    host.assert_clean();
}

#[test]
fn a_missing_kernel_is_installed_first() {
    or_skip!(tool::find("qemu-system-x86_64"));
    or_skip!(lab::kernel());
    let host = or_skip!(Host::new());
    let layout = or_skip!(Layout::busybox());
    let script = r#"installed() { microagent --json doctor | tr -d ' \n' | grep -o '"installed":[^,}]*'; }
        installed; w create w --image "$IMAGE" 2>notices; grep -m 1 -c linux-image- notices; installed | cut -c 1-20
        w --quiet delete w"#;
    assert_eq!(
        output(&host, script, &layout.reference("latest")),
        "\"installed\":null\nw\n1\n\"installed\":{\"digest\nw\n"
    );
    host.assert_clean();
}

/// The file system is made by that program, which sees the size, and holds what the image holds.
#[test]
fn the_given_mke2fs_makes_the_file_system() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let script = r#"PATH=$PATH:/usr/sbin; mkdir own; ln -s "$(command -v debugfs)" own/debugfs
        printf '#!/bin/sh\necho "$@" >>%s/used\nexec %s "$@"\n' "$PWD" "$(command -v mke2fs)" >own/mke2fs; chmod 755 own/mke2fs
        w --quiet create w --image "$IMAGE" --mke2fs "$PWD/own/mke2fs" --size-mib 64; grep -c -- '-t ext4' used
        w --quiet cp w:/etc/group .; cat group; w --quiet diff w; w --quiet delete w"#;
    assert_eq!(
        output(&host, script, &layout.reference("latest")),
        "w\n1\nroot:x:0:\nuser:x:1000:\nextra:x:2000:user\nw\n"
    );
    host.assert_clean();
}

#[test]
fn a_workspace_that_starts_can_be_stopped_and_descriptors_are_not_kept() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    // A lock of the caller is free again as soon as its process has ended.
    let script = r#"state() { w status w | sed -n 's/^state *//p'; }
        w --quiet create w --image "$IMAGE" --memory 128
        w start w >started 2>&1 & until [ "$(state)" = starting ]; do :; done
        w stop w --reason early; wait; cat started; w status w | grep -E '^(state|detail)'
        (exec 9>held; flock 9; w start w); flock -n held echo free; w exec w echo up
        w stop w; w stop w; state
        w start w --memory 33 2>/dev/null; echo $?; state; w start w --memory 200 --cpus 1; w exec w -- sh -c 'nproc; awk "/MemTotal/ {print (\$2 > 150000)}" /proc/meminfo'; w kill w
        w result w; w delete ../w "$PWD" w"#;
    let expected = "w\nw\nmicroagent: the workspace was stopped while it started\n\
                    state      stopped\ndetail     early\nw\nfree\nup\nw\nw\nstopped\n\
                    2\nstopped\nw\n1\n1\nw\n\
                    microagent: workspace w has no workload\nw\n";
    assert_eq!(output(&host, script, &layout.reference("latest")), expected);
    host.assert_clean();
}

#[test]
fn delete_needs_no_space_and_removes_what_killed_commands_left() {
    root_or_skip!();
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    // All blocks may be used, and nothing has room for another directory.
    let script = r#"truncate -s 300M disk; mke2fs -q -t ext4 -m 0 disk; mkdir own; mount -o loop disk own
        cp -a "$MICROAGENT_STATE_DIR/." own; rm -r own/lost+found; export MICROAGENT_STATE_DIR=$PWD/own
        w() { microagent --quiet --engine qemu "$@"; }; w create a --image "$IMAGE"; w create b --image "$IMAGE"
        cp -a own/workspaces/b own/workspaces/.create-killed; rm -r own/workspaces/b; w delete absent; echo $?
        for size in 64k 4k 1k; do dd if=/dev/zero of=own/fill-$size bs=$size 2>/dev/null; done; mkdir own/full 2>/dev/null || echo full
        w delete a; echo $?; ls -A own/workspaces; ls own/cas/roots"#;
    let mut shell = host.shell_with_mounts(script);
    let finished = shell.variable("IMAGE", layout.reference("latest")).finish();
    let expected = "a\nb\n0\nfull\na\n0\ndefault-kernel.json\n";
    assert_eq!(finished.text(), expected, "{}", finished.errors());
    host.assert_clean();
}

#[test]
fn a_unit_supervises_a_workspace_and_is_removed() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let script = r#"export XDG_CONFIG_HOME=$PWD/config; w --quiet create w --image "$IMAGE" --restart always
        w --quiet supervise w --install --max-restarts 3; unit=config/systemd/user/microagent-w.service
        sed -n '/^\[Service\]/,/^\[Install\]/p' $unit | grep -v '^#'
        command -v systemd-analyze >/dev/null && systemd-analyze verify --man=no --recursive-errors=no $PWD/$unit
        w supervise w --uninstall; ls config/systemd/user; w --quiet supervise w --uninstall; w supervise absent --install; w delete w"#;
    let text = output(&host, script, &layout.reference("latest"));
    let here = host.path("").display().to_string();
    let program = microagent_tests::binaries::microagent();
    let program = program.canonicalize().unwrap().display().to_string();
    let state = host.state().display().to_string();
    let text = text.replace(&here, "HERE/").replace(&state, "STATE");
    let text = text.replace(&program, "microagent");
    let expected = "w\nHERE/config/systemd/user/microagent-w.service\n[Service]\n\
                    ExecStart=\"microagent\" \"--state-dir\" \"STATE\" \"--engine=qemu\" \"supervise\" \"w\" \"--max-restarts=3\"\n\
                    KillMode=process\nSuccessExitStatus=143\nRestart=on-abnormal\n\n[Install]\n\
                    HERE/config/systemd/user/microagent-w.service\n\
                    microagent: then: systemctl --user disable --now microagent-w; systemctl --user daemon-reload\n\
                    HERE/config/systemd/user/microagent-w.service\n\
                    microagent: there is no workspace \"absent\"\n  list them: microagent list\nw\n";
    assert_eq!(text, expected);
    host.assert_clean();
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let host = or_skip!(Host::new());
    let script = r#"microagent --help | sed -n '/^Commands:/,/^$/p' | awk 'NR > 1 && NF {print $1}' | grep -v help >commands; wc -l <commands | awk '{print ($1 > 30)}'
        microagent man pages; for shell in bash zsh fish; do microagent completions $shell >$shell; done
        bash -c 'source ./bash; complete -p microagent >/dev/null && echo known; COMP_WORDS=(microagent sup); COMP_CWORD=1; _microagent microagent sup microagent; echo "${COMPREPLY[@]}"'
        while read -r command; do for file in zsh fish; do grep -qw -- "$command" $file || echo "$command is not in $file"; done
            test -s pages/microagent-$command.1 || echo "no page of $command"; done <commands
        if command -v groff >/dev/null; then for page in pages/*; do groff -man -Tutf8 -ww $page >text || echo $page; done 2>&1; fi
        grep -c 'max.-restarts' pages/microagent-supervise.1 | awk '{print ($1 > 0)}'
        microagent completions csh 2>/dev/null; echo $?; microagent --json profiles | tr -d ' \n' | sed 's/},.*/\n/'; microagent profiles | tail -n 1"#;
    let expected = "1\npages/microagent.1\nknown\nsupervise\n1\n2\n\
                    [{\"memoryMiB\":256,\"cpuCount\":1,\"sizeMiB\":512,\"profile\":\"tiny\"\n\
                    large    4096        4     16384\n";
    assert_eq!(host.shell(script).finish().text(), expected);
    host.assert_clean();
}

#[test]
fn an_image_of_a_workspace_is_pushed_as_skopeo_reads_it() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::with_password());
    let (user, password) = CREDENTIALS;
    let script = format!(
        r#"to={registry}/some/name:1; creds='{user}:{password}'
        w --quiet create w --image "$IMAGE" >/dev/null; w --quiet commit w $to --push 2>&1 | sed "s#{registry}#REGISTRY#g"
        skopeo login --authfile auth --tls-verify=false -u {user} -p '{password}' {registry} >/dev/null; export REGISTRY_AUTH_FILE=$PWD/auth
        pushed=$(w --quiet commit w $to --push); echo "${{pushed% *}}" | sed "s#{registry}#REGISTRY#g"
        [ "${{pushed#* }}" = "$(skopeo inspect --tls-verify=false --format '{{{{.Digest}}}}' docker://$to)" ] && echo same
        skopeo copy --quiet --insecure-policy --src-tls-verify=false docker://$to oci:pulled:1 && echo pulled
        w --quiet commit w oci:layout:1 >/dev/null; ls pulled/blobs/sha256 layout/blobs/sha256 | sort | uniq -d | wc -l
        w --quiet commit w $to --push >/dev/null && echo again; w --quiet commit w oci:layout:1 --push 2>&1 | head -1; ls -A "$MICROAGENT_STATE_DIR"/run; w delete w"#,
        registry = registry.address(),
    );
    let expected = "microagent: image REGISTRY/some/name:1: registry REGISTRY requires credentials\n  \
                    check the image's name; if it is private, log in with `skopeo login --authfile FILE REGISTRY` \
                    and set REGISTRY_AUTH_FILE=FILE\n\
                    REGISTRY/some/name:1\nsame\npulled\n2\nagain\n\
                    microagent: cannot push to oci:layout:1\nw\n";
    assert_eq!(
        output(&host, &script, &layout.reference("latest")),
        expected
    );
    host.assert_clean();
}
