//! Runs. Refused flags are corrected together, in one run; the other remedies take a run each.

use super::remedy::Remedy;

/// Refused flags of `run`, and the corrected ones.
#[derive(Debug)]
pub struct Flaw {
    /// Creates the fault.
    pub given: &'static str,
    /// The refused flags, before `--image $IMAGE --exec true`.
    pub flags: &'static str,
    /// The exit code.
    pub code: i32,
    /// The remediation, as in [`Remedy::says`].
    pub says: &'static str,
    /// What it says, as in [`Remedy::follow`].
    pub follow: &'static str,
    /// The flags that it says to use instead.
    pub corrected: &'static str,
}

impl Flaw {
    const USAGE: Flaw = Flaw {
        given: ":",
        flags: "",
        code: 2,
        says: "",
        follow: ":",
        corrected: "",
    };
    const FAILURE: Flaw = Flaw {
        code: 125,
        ..Flaw::USAGE
    };
}

/// Flaws whose corrected flags are used by one run.
#[derive(Debug)]
pub struct Batch {
    /// The flaws.
    pub flaws: &'static [Flaw],
    /// The script of the run; it finds the flags in `"$@"`.
    pub run: &'static str,
    /// Its output.
    pub output: &'static str,
}

/// Usage errors, without a default.
const USAGE: &[Flaw] = &[
    Flaw {
        flags: "--env =x",
        says: "use --env KEY=VALUE",
        corrected: "--env KEY=VALUE",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--name Not_A_Name",
        says: "use 1 to 63 lowercase letters, digits and hyphens, not starting with a hyphen",
        corrected: "--name a-name-1",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--name one --id two",
        says: "they are synonyms: use one of them",
        // The same name as above.
        corrected: "--id a-name-1",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--hostname under_score",
        says: "use at most 64 letters, digits and hyphens, in labels separated by dots",
        corrected: "--hostname host-1.test",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--profile huge",
        says: "the profiles are tiny, small, medium and large",
        corrected: "--profile tiny",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--memory 0",
        says: "use a whole number from {} to {}, as in {} {}",
        corrected: "$3 $4",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--cpus 65",
        says: "use a whole number from {} to {}, as in {} {}",
        corrected: "$3 $4",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--timeout 0",
        says: "use a whole number from {} to {}, as in {} {}",
        corrected: "$3 $4",
        ..Flaw::USAGE
    },
    Flaw {
        given: "mkfs.ext4 -q disk.img 8M; mkdir -p b c d; for n in b c d; do echo $n >$n/$n; tar -cf $n.tar -C $n $n; done",
        flags: "--disk a=disk.img:/a",
        says: "use {} NAME={}:/MOUNT:ro, or :rw at the end",
        corrected: "$1 a=disk.img:/a:ro",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--bundle a=b.tar:/b:ro --bundle a=c.tar:/c:ro",
        says: "use a unique name for each disk",
        corrected: "--bundle b=b.tar:/b:ro",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--bundle b=b.tar:/c:ro --bundle c=c.tar:/c:ro",
        says: "use a unique mount point for each disk",
        corrected: "--bundle c=c.tar:/c:ro",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--bundle d=d.tar:data:ro",
        says: "use a separate directory in the guest, such as /data",
        corrected: "--bundle d=d.tar:/data:ro",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--entrypoint /bin/true",
        says: "use one of them",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--shell /bin/sh",
        says: "add --keep, or omit it",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--volume $PWD:/e",
        says: "a microVM shares no directories with the host: put the files into the image, attach them with \
               --disk or --bundle, or pass them on standard input with -i",
        follow: "mkdir -p e; echo input >e/e; tar -cf e.tar -C e e",
        corrected: "--bundle e=e.tar:/e:ro -i",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--privilege",
        says: "did you mean {}? {}",
        // That one is refused as well, with the same remediation.
        follow: "vm $1 --image $IMAGE --exec true 2>second && exit 1; tail -n 1 second | grep -qxF \"  $2\"",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--privileged",
        says: "omit it: the command runs in its own VM and needs no extra privileges",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "-p 80",
        says: "name each port: --publish 8080:80",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--dns 192.0.2.1",
        says: "the guest resolves what the host resolves; a network is chosen with --network",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "-t",
        says: "omit it, and use -i for standard input; a workspace has terminals: microagent exec -t",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--rm",
        says: "omit it: a run leaves nothing behind unless --keep is given",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--pid host",
        says: "omit it: host namespaces do not apply to a VM",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--platform linux/amd64",
        says: "omit it: a VM has the host's architecture",
        ..Flaw::USAGE
    },
    // The run does the next two.
    Flaw {
        flags: "--user user",
        says: "the image sets this; change it in the command, as in --exec 'cd DIR && su USER -c …'",
        ..Flaw::USAGE
    },
    Flaw {
        flags: "--detach",
        says: "omit it: a run is always in the foreground; use a background job of the shell instead",
        ..Flaw::USAGE
    },
];

/// Programs and files that do not fit.
const FILES: &[Flaw] = &[
    Flaw {
        flags: "--supervisor /no/such",
        says: "omit {} to use the installed program",
        ..Flaw::FAILURE
    },
    Flaw {
        given: "printf '#!/bin/sh\\necho microagent-supervisor: invalid control message >&2; exit 2\\n' >old && chmod 755 old",
        flags: "--supervisor ./old",
        says: "use the {} of the same installation as microagent",
        follow: "test $1 = microagent-supervisor; test -x \"$(dirname \"$(command -v microagent)\")/$1\"",
        ..Flaw::FAILURE
    },
    Flaw {
        given: "mkdir -p a; echo packed >a/name",
        flags: "--bundle a=a:/a:ro",
        says: "pack a directory with tar, as in: tar -C DIRECTORY -cf FILE .",
        follow: "eval \"$(echo \"${SAID#*: }\" | sed 's/DIRECTORY/a/; s/FILE/a.tar/')\"",
        corrected: "--bundle a=a.tar:/a:ro",
        ..Flaw::FAILURE
    },
    Flaw {
        given: "mkdir -p b; echo compressed >b/name; tar -cf b.tar -C b .; lz4 -qf b.tar b.tar.lz4",
        flags: "--bundle b=b.tar.lz4:/b:ro",
        says: "use a tar that is compressed with gzip or zstd, or uncompressed",
        // A stream has the window that it was given, whatever its size.
        follow: "zstd -q --long=28 <b.tar >b.tar.zst",
        ..Flaw::FAILURE
    },
    Flaw {
        flags: "--bundle b=b.tar.zst:/b:ro",
        says: "compress it with a window of at most 128 MiB (`zstd --long=27`)",
        follow: "zstd=$(echo \"$SAID\" | cut -d '`' -f 2); $zstd -q <b.tar >b.tar.zst",
        corrected: "--bundle b=b.tar.zst:/b:ro",
        ..Flaw::FAILURE
    },
    Flaw {
        given: "mkdir -p c; echo damaged >c/name; tar -cf c.tar -C c .; printf X | dd of=c.tar bs=1 seek=10 conv=notrunc status=none",
        flags: "--bundle c=c.tar:/c:ro",
        says: "the tar is damaged or hostile: do not use it, or create it again",
        // With a label.
        follow: "tar --format=gnu --label volume -cf c.tar -C c .",
        ..Flaw::FAILURE
    },
    Flaw {
        flags: "--bundle c=c.tar:/c:ro",
        says: "create the tar without it, or in another format (`tar --format=pax`)",
        follow: "tar=$(echo \"$SAID\" | cut -d '`' -f 2); $tar -cf c.tar -C c .",
        corrected: "--bundle c=c.tar:/c:ro",
        ..Flaw::FAILURE
    },
    Flaw {
        given: "mkdir -p d; echo directory >d/name",
        flags: "--disk d=d:/d:rw",
        says: "pack the directory with tar and attach it with --bundle {}=TAR:{}:ro",
        // With an attribute that Linux refuses.
        follow: "test $1 = d; test $2 = /d; tar --format=pax --pax-option=SCHILY.xattr.security.capability:=x -cf d.tar -C d .",
        ..Flaw::FAILURE
    },
    Flaw {
        flags: "--bundle d=d.tar:/d:ro",
        says: "create the tar without the attribute",
        follow: "tar -cf d.tar -C d .",
        corrected: "--bundle d=d.tar:/d:ro",
        ..Flaw::FAILURE
    },
    // A repaired one can be attached read-only.
    Flaw {
        given: "mkfs.ext4 -q unclean.img 8M; PATH=$PATH:/usr/sbin debugfs -w -R 'feature needs_recovery' unclean.img 2>/dev/null",
        flags: "--disk e=unclean.img:/e:ro",
        says: "attach it once with :rw, or repair it: e2fsck -p {}",
        follow: "PATH=$PATH:/usr/sbin; ${SAID#*repair it: } >&2 || test $? = 1",
        corrected: "--disk e=unclean.img:/e:ro",
        ..Flaw::FAILURE
    },
];

/// Disks.
const DISKS: &[Flaw] = &[
    Flaw {
        flags: "--disk a=/dev/null:/a:rw",
        says: "create one with mkfs.ext4",
        follow: "PATH=$PATH:/usr/sbin mkfs.ext4 -q a.img 8M",
        corrected: "--disk a=a.img:/a:rw",
        ..Flaw::FAILURE
    },
    Flaw {
        given: "truncate -s 8M b.img",
        flags: "--disk b=b.img:/b:rw",
        says: "create one with mkfs.ext4; partition tables and other image formats are not supported",
        follow: "PATH=$PATH:/usr/sbin mkfs.ext4 -q b.img",
        corrected: "--disk b=b.img:/b:rw",
        ..Flaw::FAILURE
    },
    Flaw {
        flags: "--disk c=a.img:/c:rw --disk d=a.img:/d:ro",
        says: "attach it once, or read-only both times",
        follow: "cp a.img c.img",
        corrected: "--disk c=c.img:/c:ro --disk d=c.img:/d:ro",
        ..Flaw::FAILURE
    },
    Flaw {
        given: "rm -rf e; mkdir e; for n in 1 2 3 4 5 6; do echo $n >e/$n; tar -cf e$n.tar -C e $n; done",
        flags: "$(for n in 1 2 3 4 5 6; do echo --bundle e$n=e$n.tar:/e$n:ro; done)",
        says: "combine several of them into one disk",
        follow: "tar -cf e.tar -C e .",
        corrected: "--bundle e=e.tar:/e:ro",
        ..Flaw::FAILURE
    },
    Flaw {
        given: "mkdir -p $STATE/workspaces/taken && touch $STATE/workspaces/taken/file",
        flags: "--keep --name taken",
        says: "use another name, or delete it first: microagent delete {}",
        follow: "microagent delete taken",
        corrected: "--keep --name taken",
        ..Flaw::FAILURE
    },
];

/// What is corrected in one run each.
pub const BATCHES: &[Batch] = &[
    Batch {
        flaws: USAGE,
        run: "echo input | vm \"$@\" --image $IMAGE --exec 'cat; echo $KEY $(hostname) $(nproc)
              echo /a/* /b/* /c/* /data/*; cat /e/e; cd /etc && su user -s /bin/sh -c \"pwd; id -un\"' >output &
              wait $!; cat output",
        output: "input\nVALUE host-1.test 2\n/a/lost+found /b/b /c/c /data/d\ninput\n/etc\nuser\n",
    },
    Batch {
        flaws: FILES,
        run: "vm \"$@\" --image $IMAGE --exec 'cat /a/name /b/name /c/name /d/name; echo /e/*'",
        output: "packed\ncompressed\ndamaged\ndirectory\n/e/lost+found\n",
    },
    Batch {
        flaws: DISKS,
        run: "vm \"$@\" --image $IMAGE --exec 'touch /a/new /b/new; ls /a /b /c /d; cat /e/*'; ls $STATE/workspaces/taken",
        output: "/a:\nlost+found\nnew\n\n/b:\nlost+found\nnew\n\n/c:\nlost+found\n\n/d:\nlost+found\n1\n2\n3\n4\n5\n6\n\
                 event.json\nevents.jsonl\nlock\nresult.json\nroot.delta\nroot.presence\nrun.json\nspec.json\n",
    },
];

/// What takes a run of its own.
pub const RUNS: &[Remedy] = &[
    Remedy {
        command: "vm",
        code: 2,
        says: "use microagent run --image REF --exec 'COMMAND', or microagent run REF COMMAND",
        works: "vm --image $IMAGE --exec true",
        ..Remedy::NEW
    },
    Remedy {
        command: "vm $IMAGE --exec true",
        code: 2,
        says: "place it before the image: microagent run {} … {}",
        works: "vm $1 true $2",
        ..Remedy::NEW
    },
    Remedy {
        command: "vm --image $IMAGE --exec true -- true",
        code: 2,
        says: "use one of them",
        works: "vm --image $IMAGE -- true",
        ..Remedy::NEW
    },
    Remedy {
        given: "cp -a $DIRECTORY nothing && umoci config --image nothing:latest --clear=config.cmd --clear=config.entrypoint",
        command: "vm oci:nothing:latest",
        code: 125,
        says: "use --exec 'COMMAND', or add a command after the image",
        works: "vm oci:nothing:latest true && vm --exec true oci:nothing:latest",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p bare && cp \"$(command -v busybox)\" bare/true && tar -cf bare.tar -C bare true && \
                umoci init --layout shell-less && umoci new --image shell-less:x && \
                umoci config --image shell-less:x --os linux --architecture amd64 && \
                umoci raw add-layer --image shell-less:x bare.tar",
        command: "vm --image oci:shell-less:x --exec true",
        code: 127,
        says: "--exec and --setup need a shell in the image; run a program directly instead: \
               microagent run REF PROGRAM ARG…",
        works: "vm oci:shell-less:x /true",
        ..Remedy::NEW
    },
    Remedy {
        given: "head -c 100000 /dev/zero | tr '\\0' x >long",
        command: "ulimit -s unlimited; for i in $(seq 21); do set -- \"$@\" -e \"V$i=$(cat long)\"; done; \
                  vm \"$@\" --image $IMAGE --exec true",
        code: 2,
        says: "pass it in a file: --bundle NAME=TAR:/MOUNT:ro, or on standard input with -i",
        follow: "for i in $(seq 21); do cat long; done >all; tar -cf all.tar all",
        works: "vm --bundle all=all.tar:/all:ro -i --image $IMAGE --exec 'cmp /all/all -' <all",
    },
    Remedy {
        command: "vm --timeout 1 --image $IMAGE --exec 'sleep 1; exit 0'",
        code: 124,
        says: "use a longer --timeout SECONDS",
        works: "vm --timeout 100 --image $IMAGE --exec 'sleep 1; exit 0'",
        ..Remedy::NEW
    },
    Remedy {
        command: "vm --memory 33 --image $IMAGE --exec true",
        code: 2,
        says: "use --memory {} or more",
        works: "vm --memory $1 --image $IMAGE --exec true",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p alone && cp \"$(command -v microagent)\" alone",
        command: "alone/microagent --quiet --engine qemu run $IMAGE true",
        code: 125,
        says: "install it beside microagent, or set $MICROAGENT_LIBEXEC to its directory",
        follow: "programs=$(dirname $(command -v microagent)); mkdir -p complete; cp alone/microagent complete; \
                 cp $programs/microagent-guest $programs/microagent-supervisor complete",
        works: "MICROAGENT_LIBEXEC=$programs alone/microagent --quiet --engine qemu run $IMAGE true && \
                complete/microagent --quiet --engine qemu run $IMAGE true",
    },
    Remedy {
        command: "microagent --engine qemu perf boot --iterations 0 --image $IMAGE",
        code: 2,
        says: "use a whole number from 1 to {}",
        follow: "test $1 -ge 1",
        works: "microagent --engine qemu perf boot --iterations 1 --image $IMAGE",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent --engine qemu perf boot --iterations 1 --image $IMAGE --exec 'exit 3'",
        says: "use a command that exits with 0: --exec COMMAND",
        works: "microagent --engine qemu perf boot --iterations 1 --image $IMAGE --exec 'exit 0'",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p wrong && cp /bin/ls wrong/microagent-guest && cp \"$(dirname $(command -v microagent))/microagent-supervisor\" wrong",
        command: "export MICROAGENT_LIBEXEC=$PWD/wrong; vm $IMAGE true",
        code: 125,
        says: "use the microagent-guest of the same installation as microagent",
        works: "unset MICROAGENT_LIBEXEC; vm $IMAGE true",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p \"run time\" && mkdir -m 755 \"run time/microagent\"",
        command: "export XDG_RUNTIME_DIR=\"$PWD/run time\"; vm $IMAGE true",
        code: 125,
        says: "make it private: chmod 700 {}",
        follow: "eval \"${SAID#make it private: }\"",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p read-only",
        command: "unshare --mount sh -c 'mount -t tmpfs -o ro x read-only && XDG_RUNTIME_DIR=$PWD/read-only exec microagent --quiet --engine qemu run $IMAGE true'",
        code: 125,
        says: "set XDG_RUNTIME_DIR to a writable directory with a short path",
        follow: "export XDG_RUNTIME_DIR=$(mktemp -d /tmp/XXXXXX); trap 'rm -r $XDG_RUNTIME_DIR' EXIT",
        works: "vm $IMAGE true",
    },
    Remedy {
        command: "unshare --mount sh -c 'mount -t tmpfs x /proc && exec microagent --quiet --engine qemu run $IMAGE true'",
        code: 125,
        says: "mount it: mount -t proc proc /proc",
        works: "unshare --mount sh -c \"mount -t tmpfs x /proc && ${SAID#mount it: } && exec microagent --quiet --engine qemu run $IMAGE true\"",
        ..Remedy::NEW
    },
    Remedy {
        // Memory of a process, which its end frees: with that of a file the whole guest may end.
        given: "echo 'dd if=/dev/zero of=/dev/null bs=105M count=1 2>/dev/null' >fill",
        command: "vm --memory 128 --image $IMAGE --exec \"$(cat fill)\"",
        code: 137,
        says: "use more, as in --memory {}",
        works: "vm --memory $1 --image $IMAGE --exec \"$(cat fill)\"",
        ..Remedy::NEW
    },
    // As a program of the KVM that fails, whatever this host has.
    Remedy {
        command: "unshare --mount sh -c 'mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && \
                  mknod -m 666 /dev/kvm c 1 3 && microagent --quiet --engine kvm run $IMAGE true'",
        code: 125,
        says: "check this host with `microagent doctor`, or use `--engine qemu`",
        follow: "eval \"$(echo \"$SAID\" | cut -d '`' -f 2)\"; engine=$(echo \"$SAID\" | cut -d '`' -f 4)",
        works: "microagent --quiet $engine run $IMAGE true",
        ..Remedy::NEW
    },
    Remedy {
        given: "skopeo_copy $LAYOUT oci:named:x && sed -i 's/,\"annotations\":{[^}]*}//' named/index.json && tar -cf nameless.tar -C named .",
        command: "microagent cache import nameless.tar",
        says: "use it directly: run oci-archive:FILE",
        follow: "archive=$(echo \"${SAID#*run }\" | sed 's/FILE/nameless.tar/')",
        works: "vm $archive true",
        ..Remedy::NEW
    },
    Remedy {
        given: "microagent cache export $IMAGE --out right.tar && mkdir -p claim && tar -C claim -xf right.tar && \
                sed -i \"s,/app:1,/app@sha256:$(echo | sha256sum | cut -d ' ' -f 1),\" claim/index.json && tar -C claim -cf false.tar .",
        command: "microagent cache import false.tar",
        says: "do not trust this archive, or use it directly: run oci-archive:FILE",
        follow: "archive=$(echo \"${SAID#*run }\" | sed 's/FILE/false.tar/')",
        works: "vm $archive true",
        ..Remedy::NEW
    },
    // A sparse file that is larger than ext4 allows.
    Remedy {
        given: "mkdir -p /dev/shm/$$ && truncate -s 17T /dev/shm/$$/huge && touch /dev/shm/$$/small && \
                tar -S -cf huge.tar -C /dev/shm/$$ huge small; rm -r /dev/shm/$$",
        command: "vm --bundle h=huge.tar:/h:ro $IMAGE true",
        code: 125,
        says: "remove the named files from the tar",
        follow: "name=$(sed -n 's/.*the file \"\\/\\([^\"]*\\)\".*/\\1/p' errors); tar -f huge.tar --delete $name",
        works: "vm --bundle h=huge.tar:/h:ro --image $IMAGE --exec 'test -e /h/small && ! test -e /h/huge'",
    },
    // Decay of the kernel's first bytes, whose time stays.
    Remedy {
        given: "kernel=$(grep -l ^.ELF $STATE/cas/blobs/sha256/* | xargs ls -S | head -n 1); chmod u+w $kernel; touch -r $kernel time; \
                printf X | dd of=$kernel bs=1 seek=1 conv=notrunc status=none; touch -r time $kernel",
        command: "vm $IMAGE true",
        code: 125,
        says: "repair the store with: microagent cache verify --repair",
        follow: "${SAID#repair the store with: } >repaired; tail -n 1 repaired; microagent cache verify",
        // The distribution's would be downloaded.
        works: "install=$(sed -n 's/.*install one: //p' repaired); $install --from $DEB && vm $IMAGE true",
    },
    Remedy {
        given: "kernel=$(grep -l ^.ELF $STATE/cas/blobs/sha256/* | xargs ls -S | head -n 1); chmod u+w $kernel; \
                printf X | dd of=$kernel bs=1 seek=1 conv=notrunc status=none",
        command: "microagent cache verify --repair; false",
        says: "the default kernel is gone; install one: microagent kernel install",
        works: "${SAID#*install one: } --from $DEB && vm $IMAGE true",
        ..Remedy::NEW
    },
    // Zeros after its end are a part of a tar.
    Remedy {
        given: "mkdir -p g && echo x >g/x && tar -cf growing.tar -C g . && head -c 64M /dev/zero >>growing.tar",
        command: "while :; do head -c 512 /dev/zero >>growing.tar; done & \
                  vm --bundle g=growing.tar:/g:ro $IMAGE true; code=$?; kill $!; exit $code",
        code: 125,
        says: "try again when nothing writes to it",
        works: "vm --bundle g=growing.tar:/g:ro --image $IMAGE --exec 'test -e /g/x'",
        ..Remedy::NEW
    },
];
