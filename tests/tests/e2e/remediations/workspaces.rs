//! Workspaces. They share one, whose VM is started a few times.

use super::remedy::Remedy;

/// `outputs` is a run with an output, `create_w` creates the workspace `w`, whose workload ends when there is a file `/go`.
pub const FUNCTIONS: &str = r#"
export MICROAGENT_ENGINE=qemu
outputs() {
    microagent run --image $IMAGE --name r --output out=/etc/group --exec true "$@"
}
create_w() {
    microagent create w --image $IMAGE --memory 128 --cpus 1 --output out=/etc/group --entrypoint 'until test -e /go; do sleep 0.1; done'
}
"#;

/// In this order.
pub const WORKSPACES: &[Remedy] = &[
    Remedy {
        given: "printf 'image: %s\\nimag: x\\n' $IMAGE >field.yaml",
        command: "microagent create a --file field.yaml --dry-run",
        code: 2,
        says: "the fields: microagent spec --schema",
        follow: "${SAID#the fields: } >schema; grep '\"image\"' schema; ! grep '\"imag\"' schema; sed -i /imag:/d field.yaml",
        ..Remedy::NEW
    },
    Remedy {
        given: "PATH=$PATH:/usr/sbin; mkfs.ext4 -q whole.ext4 8M; head -c 4M whole.ext4 >cut.ext4; cp whole.ext4 unclean.ext4; \
                debugfs -w -R 'feature needs_recovery' unclean.ext4 2>/dev/null; mkdir tree; echo x >tree/x",
        command: "microagent create --id a --rootfs cut.ext4 --dry-run",
        says: "copy it again, completely",
        follow: "cp whole.ext4 cut.ext4",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create --id a --rootfs unclean.ext4 --dry-run",
        says: "repair it: e2fsck -p {}",
        follow: "PATH=$PATH:/usr/sbin; ${SAID#repair it: } || test $? = 1",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create --id a --rootfs tree --dry-run",
        says: "make one of the directory: mke2fs -t ext4 -d {} rootfs.ext4 1G",
        follow: "PATH=$PATH:/usr/sbin; ${SAID#make one of the directory: }",
        works: "microagent create --id a --rootfs rootfs.ext4 --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --rootfs whole.ext4 --dry-run",
        code: 2,
        says: "use microagent create --id ID --rootfs PATH",
        follow: "create=$(echo \"${SAID#use }\" | sed 's/ID/a/; s/PATH/whole.ext4/')",
        works: "$create --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --dry-run --image $IMAGE --proxy proxy.example:3128",
        code: 2,
        says: "use --proxy http://HOST:PORT, or --proxy host for what the variables of this host say",
        works: "microagent create a --dry-run --image $IMAGE --network user --proxy http://proxy.example:3128 && \
                microagent create a --dry-run --image $IMAGE --network user --proxy host",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --dry-run --image $IMAGE --network isolated --proxy host",
        code: 2,
        says: "use --network user, or omit --proxy",
        works: "microagent create a --dry-run --image $IMAGE --network user --proxy host && \
                microagent create a --dry-run --image $IMAGE --network isolated",
        ..Remedy::NEW
    },
    Remedy {
        given: "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=a \
                -keyout ca.key -outform der -out ca.der",
        command: "microagent create a --dry-run --image $IMAGE --ca-cert ca.der",
        code: 2,
        says: "convert one in DER form: openssl x509 -inform der -in {} -out {}.pem",
        follow: "${SAID#convert one in DER form: }",
        works: "microagent create a --dry-run --image $IMAGE --ca-cert ca.der.pem",
    },
    Remedy {
        command: "microagent create a --image $IMAGE --entrypoint '' --dry-run",
        code: 2,
        says: "omit it: without a workload the VM idles",
        works: "microagent create a --image $IMAGE --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --restart sometimes --dry-run",
        code: 2,
        says: "the policies are never, on-failure and always",
        works: "for policy in never on-failure always; do microagent create a --image $IMAGE --restart $policy --dry-run; done",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --on-idle suspend --dry-run",
        code: 2,
        says: "as in: --ttl 600 --on-idle suspend",
        works: "microagent create a --image $IMAGE ${SAID#as in: } --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --ttl 9 --on-idle pause --dry-run",
        code: 2,
        says: "it is stop or suspend",
        works: "for action in stop suspend; do microagent create a --image $IMAGE --ttl 9 --on-idle $action --dry-run; done",
        ..Remedy::NEW
    },
    Remedy {
        given: "printf 'image: %s\\nonIdle: suspend\\n' $IMAGE >idle.yaml",
        command: "microagent create a --file idle.yaml --dry-run",
        code: 2,
        says: "as in: {ttlSeconds: 600, onIdle: suspend}",
        follow: "sed -i /onIdle:/d idle.yaml; echo \"${SAID#as in: }\" | tr -d '{}' | sed 's/, /\\n/' >>idle.yaml",
        ..Remedy::NEW
    },
    Remedy {
        given: "printf 'image: %s\\nresources: {memoryMiB: 1}\\n' $IMAGE >size.yaml",
        command: "microagent create a --file size.yaml --dry-run",
        code: 2,
        says: "use a whole number from {} to {}",
        follow: "sed -i \"s/memoryMiB: 1/memoryMiB: $2/\" size.yaml; microagent create a --file size.yaml --dry-run; \
                 sed -i \"s/memoryMiB: .*/memoryMiB: $1}/\" size.yaml",
        ..Remedy::NEW
    },
    Remedy {
        given: "printf 'image: %s\\nhealth: {httpGet: /healthz}\\n' $IMAGE >health.yaml",
        command: "microagent create a --file health.yaml --dry-run",
        code: 2,
        says: "as in: health: {httpGet: /healthz, port: 8080}",
        follow: "sed -i /health:/d health.yaml; echo \"${SAID#as in: }\" >>health.yaml",
        ..Remedy::NEW
    },
    Remedy {
        given: "printf 'image: %s\\nhealth: {exec: [ls], retries: 0}\\n' $IMAGE >health.yaml; sed 's/, retries: 0//' health.yaml >omitted.yaml",
        command: "microagent create a --file health.yaml --dry-run",
        code: 2,
        says: "use 1 or more, or omit it",
        follow: "sed -i 's/retries: 0/retries: 1/' health.yaml",
        works: "for file in health omitted; do microagent create a --file $file.yaml --dry-run; done",
    },
    Remedy {
        given: "microagent create w --image $IMAGE; printf 'image: %s\\nhostname: other\\n' $IMAGE >changed.yaml",
        command: "microagent apply w --file changed.yaml",
        says: "write it as it is in {}",
        follow: "manifest=${SAID#write it as it is in }; ! grep hostname $manifest; sed -i /hostname:/d changed.yaml",
        works: "microagent apply w --file changed.yaml; microagent delete w",
        ..Remedy::NEW
    },
    Remedy {
        given: "printf 'image: %s\\nentrypoint: ls\\nimageCommand: true\\n' $IMAGE >both.yaml",
        command: "microagent create a --file both.yaml --dry-run",
        code: 2,
        says: "use one of them",
        follow: "grep -v imageCommand: both.yaml >one.yaml; grep -v entrypoint: both.yaml >other.yaml",
        works: "for file in one other; do microagent create a --file $file.yaml --dry-run; done",
    },
    Remedy {
        command: "microagent create a --name b --image $IMAGE --dry-run",
        code: 2,
        says: "give one name",
        works: "microagent create a --image $IMAGE --dry-run && microagent create --name b --image $IMAGE --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create --dry-run",
        code: 2,
        says: "use microagent create NAME --image REF",
        follow: "create=$(echo \"${SAID#use }\" | sed \"s/NAME/a/; s|REF|$IMAGE|\")",
        works: "$create --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --output /x --dry-run",
        code: 2,
        says: "use --output NAME=/guest/path",
        follow: "output=$(echo \"${SAID#use }\" | sed s/NAME/out/)",
        works: "microagent create a --image $IMAGE $output --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --output a=/x --output a=/y --dry-run",
        code: 2,
        says: "use a unique name for each output",
        works: "microagent create a --image $IMAGE --output a=/x --output b=/y --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --network host --dry-run",
        code: 2,
        says: "the modes are user, nat, isolated and bridged",
        works: "echo \"$SAID\" | grep -w isolated; microagent create a --image $IMAGE --network isolated --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --network bridged --dry-run",
        code: 2,
        says: "use --network bridged --network-interface BRIDGE",
        works: "microagent create a --image $IMAGE --network isolated --dry-run; echo \"$SAID\" | grep -w BRIDGE",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --network bridged --network-interface 'Wi-Fi (en0)' --dry-run",
        code: 2,
        says: "use the name of a bridge, as in --network-interface br0",
        works: "microagent create a --image $IMAGE --network bridged ${SAID#*as in } --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --network isolated --publish 1:1 --dry-run",
        code: 2,
        says: "use --network user, or publish none",
        works: "microagent create a --image $IMAGE --network user --publish 1:1 --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --network user --publish 1:1 --publish 1:2 --dry-run",
        code: 2,
        says: "publish each port once",
        works: "microagent create a --image $IMAGE --network user --publish 1:1 --publish 2:2 --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --network user --publish 80 --dry-run",
        code: 2,
        says: "use --publish [HOST:]PORT:GUESTPORT, such as 8080:80 or 0.0.0.0:8080:80",
        works: "for mapping in 8080:80 0.0.0.0:8080:80; do microagent create a --image $IMAGE --network user --publish $mapping --dry-run; done",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --network user --egress 'allow=no sense' --dry-run",
        code: 2,
        says: "rules are such as allow=pypi.org:443, allow=*.example.org and deny=10.0.0.0/8",
        works: "microagent create a --image $IMAGE --network user --egress allow=pypi.org:443 --egress 'allow=*.example.org' --egress deny=10.0.0.0/8 --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --network bridged --network-interface br0 --egress allow=any --dry-run",
        code: 2,
        says: "use --network nat or user",
        works: "for mode in nat user; do microagent create a --image $IMAGE --network $mode --egress allow=any --dry-run; done",
        ..Remedy::NEW
    },
    Remedy {
        command: "MICROAGENT_NETWORK=x microagent list",
        code: 2,
        says: "the modes are user, nat and isolated",
        works: "MICROAGENT_NETWORK=isolated microagent list",
        ..Remedy::NEW
    },
    Remedy {
        command: "MICROAGENT_SNAPSHOT=x microagent list",
        code: 2,
        says: "unset it, or set it to off",
        works: "MICROAGENT_SNAPSHOT= microagent list && MICROAGENT_SNAPSHOT=off microagent list",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --mediation 8000 --dry-run",
        code: 2,
        says: "use --mediation PORT=HOST:PORT, such as 8000=127.0.0.1:8000",
        works: "microagent create a --image $IMAGE --mediation \"${SAID#*such as }\" --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --mediation 0=a:1 --dry-run",
        code: 2,
        says: "use a port from 1 to 4294967294",
        works: "for port in 1 4294967294; do microagent create a --image $IMAGE --mediation $port=a:1 --dry-run; done",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --mediation 1025=a:1 --dry-run",
        code: 2,
        says: "use another port",
        works: "microagent create a --image $IMAGE --mediation 1027=a:1 --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent create a --image $IMAGE --mediation 1=::1:80 --dry-run",
        code: 2,
        says: "use a name or address and a port, such as 127.0.0.1:8000 or [::1]:8000",
        works: "for target in 127.0.0.1:8000 '[::1]:8000' name:1; do microagent create a --image $IMAGE --mediation 1=$target --dry-run; done",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent run --image $IMAGE --mediation 5=127.0.0.1:1 --exec true",
        code: 125,
        says: "start the server on {}, or make it optional: --mediation-optional",
        works: "microagent run --image $IMAGE --mediation 5=$1 --mediation-optional --exec true",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p r-outputs/out",
        command: "outputs",
        code: 125,
        says: "remove it, or use another directory: --output-dir DIR",
        follow: "outputs --output-dir elsewhere; cat elsewhere/out; rmdir r-outputs/out",
        ..Remedy::NEW
    },
    Remedy {
        given: "create_w",
        command: "create_w",
        says: "use another name, or delete it first: microagent delete {}",
        follow: "microagent create other --image $IMAGE; microagent delete other; ${SAID#*delete it first: }",
        ..Remedy::NEW
    },
    // The last field.
    Remedy {
        given: "cp $STATE/workspaces/w/spec.json manifest.json",
        command: "microagent create a --request manifest.json --dry-run",
        code: 2,
        says: "remove it: create records what it resolves",
        follow: "tr -d '\\n' <manifest.json | sed 's/, *\"recorded\": {.*/}/' >request.json",
        works: "microagent create a --request request.json --dry-run",
    },
    Remedy {
        command: "microagent status v",
        says: "list them: microagent list",
        follow: "${SAID#list them: } | grep '^w '",
        works: "microagent status w",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent cp w:/etc/group w:/other",
        code: 2,
        says: "use microagent cp NAME:/PATH DESTINATION, or the other way round",
        follow: "cp=${SAID#use }; cp=$(echo \"${cp%,*}\" | sed 's#NAME:/PATH#w:/etc/group#; s#DESTINATION#group#')",
        works: "$cp; cat group",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent artifacts get w other",
        says: "list them: microagent artifacts list {}",
        follow: "${SAID#list them: } | grep '^out '",
        works: "microagent artifacts get w out --to list; cmp list group",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir out",
        command: "microagent artifacts get w out",
        says: "remove it, or copy to another path: --to PATH",
        follow: "microagent artifacts get w out --to another; cat another; rmdir out",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent exec w true",
        code: 125,
        says: "start it first: microagent start {}",
        follow: "${SAID#start it first: }",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent exec -t w true </dev/null",
        code: 2,
        says: "omit -t: the command then has no terminal",
        works: "microagent exec w true </dev/null",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent --json exec -t w true",
        code: 2,
        says: "omit --json or -t",
        works: "microagent --json exec w true && script -qec 'microagent exec -t w true' /dev/null </dev/null",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent connect w </dev/null",
        code: 2,
        says: "in a script, use --send LINE",
        follow: "send=${SAID#*use }",
        works: "microagent connect w ${send% *} 'exit 0' </dev/null",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent --json connect w",
        code: 2,
        says: "use --send LINE with it",
        follow: "send=$(echo \"${SAID#use }\" | cut -d' ' -f1)",
        works: "microagent --json connect w $send 'exit 0'",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent --json connect w --console",
        code: 2,
        says: "use microagent --json logs --follow --console {}",
        follow: "follow=${SAID#use }",
        works: "timeout 2 $follow | grep -q text",
        ..Remedy::NEW
    },
    Remedy {
        given: "microagent create s --image $IMAGE --memory 128 --cpus 1 --shell /bin/none; microagent start s",
        command: "microagent connect s --send 'exit 0'",
        code: 127,
        says: "install {} with --setup, or create the workspace with another --shell",
        follow: "microagent delete --force s; microagent create s --image $IMAGE --memory 128 --cpus 1 --shell $1 --setup \"printf '#!/bin/sh\\nexec sh\\n' >$1; chmod 755 $1\"; \
                 microagent start s; microagent connect s --send 'exit 0'; microagent delete --force s; \
                 microagent create s --image $IMAGE --memory 128 --cpus 1 --shell /bin/ash; microagent start s",
        works: "microagent connect s --send 'exit 0' && microagent delete --force s",
    },
    Remedy {
        command: "microagent create a --image $IMAGE --shell bash --dry-run",
        code: 2,
        says: "use the path that it has in the guest, as in --shell /bin/bash",
        works: "microagent create a --image $IMAGE ${SAID##*as in } --dry-run",
        ..Remedy::NEW
    },
    Remedy {
        given: "printf 'A=1\\n=2\\n' >variables",
        command: "microagent exec --env-file variables w true",
        code: 2,
        says: "each line is NAME=VALUE, NAME, or a comment that begins with #",
        follow: "printf 'A=1\\nB\\n# =2\\n' >variables",
        works: "microagent exec --env-file variables w env | grep -x A=1",
    },
    Remedy {
        command: "(export VARIABLE=$(printf '\\377'); microagent exec -e VARIABLE w true)",
        code: 2,
        says: "use --env {}=VALUE",
        works: "microagent exec ${SAID#use } w env | grep -x VARIABLE=VALUE",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent start w",
        says: "stop it first: microagent stop {}",
        follow: "${SAID#stop it first: }",
        ..Remedy::NEW
    },
    Remedy {
        given: "microagent start w || true; microagent pause w",
        command: "microagent exec w true",
        code: 125,
        says: "let it run again: microagent resume {}",
        follow: "${SAID#let it run again: }",
        ..Remedy::NEW
    },
    Remedy {
        given: "microagent quarantine w",
        command: "microagent stop w",
        code: 1,
        says: "kill it: microagent kill {}",
        follow: "${SAID#kill it: }",
        works: "microagent start w",
    },
    Remedy {
        given: "microagent kill w",
        command: "microagent commit w $REGISTRY/committed:1",
        code: 2,
        says: "use oci:DIR:TAG, or an image of a registry with --push",
        works: "microagent commit w oci:committed:1 && microagent commit w $REGISTRY/committed:1 --push && \
                microagent run --image $REGISTRY/committed:1 --exec true",
        ..Remedy::NEW
    },
    // The process that keeps the VM is killed by what it starts.
    Remedy {
        given: "mkdir killer; cp $(dirname $(command -v microagent))/microagent-guest killer; \
                printf '#!/bin/sh\\nkill -9 $PPID\\n' >killer/microagent-supervisor; chmod 755 killer/microagent-supervisor",
        command: "MICROAGENT_LIBEXEC=$PWD/killer microagent start w",
        says: "see its console: microagent logs --console {}",
        // It has that of the last start.
        follow: "${SAID#see its console: } >console",
        works: "microagent start w",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent delete w",
        says: "stop it first: microagent stop {}; or kill it: microagent delete --force {}",
        follow: "stop=${SAID%;*}; ${stop#*: }; microagent delete w; create_w; microagent start w",
        works: "${SAID#*or kill it: }; ! microagent status w",
        ..Remedy::NEW
    },
    Remedy {
        given: "create_w; microagent start w",
        command: "microagent result w",
        says: "wait for it: microagent wait {}",
        follow: "microagent exec w touch /go; ${SAID#wait for it: }",
        ..Remedy::NEW
    },
];
