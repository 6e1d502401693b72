//! The examples in the documentation of `create` and `run`, as they are written there. The images
//! have the names of the examples in a local registry, which is a mirror of `docker.io`; files are
//! where the examples have them, in a `/tmp` of the test's own.

use std::time::Duration;

use microagent_tests::image::{self, Layout};
use microagent_tests::registry::Registry;
use microagent_tests::{built_kernel, or_skip, root_or_skip, tool};

/// Runs in a mount namespace of its own.
const PREPARE: &str = r#"exec 2>&1
root=$(dirname "$HOME"); programs=$(dirname "$(command -v microagent)")
mount --bind "$root" /mnt && mount --bind "$programs" /media && mount -t tmpfs none /tmp && mkdir -p "$root" "$programs" &&
    mount --move /mnt "$root" && mount --move /media "$programs" && cd "$HOME" || exit
export MICROAGENT_ENGINE=qemu MICROAGENT_REGISTRIES=$PWD/registries.json
digest=$(microagent --json doctor | sed -n '/"installed"/,/}/s/.*"digest": "sha256:\(.*\)".*/\1/p')
cp "$MICROAGENT_STATE_DIR/cas/blobs/sha256/$digest" /tmp/kernel; ln /tmp/kernel /tmp/Image
microagent --quiet rootfs build --image docker.io/library/busybox:1.36 --allow-mutable --out /tmp/rootfs.ext4 >/dev/null
cp /tmp/rootfs.ext4 /tmp/workspace.ext4; mkdir config; echo configured >config/file; tar -C config -cf /tmp/config.tar .
microagent() { command microagent --quiet "$@"; }
"#;

const CREATE: &str = r#"
microagent create \
  --name research \
  --image docker.io/library/ubuntu:24.04 \
  --profile medium
microagent --json status research | grep -c 'docker.io/library/ubuntu@sha256:'; microagent delete research

microagent create \
  --name research \
  --image docker.io/library/busybox:1.36 \
  --setup "mkdir -p /workspace" \
  --setup "echo ready > /workspace/status"
microagent cp research:/workspace/status status; cat status; microagent delete research

microagent create \
  --name research \
  --image docker.io/library/ubuntu:24.04 \
  --hostname research \
  --shell /bin/bash
microagent start research; microagent connect research --send 'echo ${BASH_VERSION:+bash} of $HOSTNAME'; microagent delete -f research

cat >microagent.yaml <<'END'
name: research
image: docker.io/library/ubuntu:24.04
profile: medium
restart: on-failure
entrypoint: /app/start.sh
shell: /bin/bash
hostname: research
setup:
  - mkdir -p /workspace
  - echo ready > /workspace/status
env:
  MICROAGENT_NAME: research
resources:
  memoryMiB: 2048
  cpuCount: 2
  sizeMiB: 8192
network:
  mode: nat
  forwards:
    - host: 127.0.0.1
      hostPort: 8080
      guestPort: 80
      protocol: tcp
disks:
  - name: workspace
    path: /tmp/workspace.ext4
    mountpoint: /workspace
    mode: rw
END
if [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ]; then
    microagent create --file microagent.yaml; microagent delete research
else
    microagent create --file microagent.yaml 2>&1 | grep 'needs IPv4 forwarding' >/dev/null && printf 'research\nresearch\n'
fi
# Without its network, which this host may not have.
sed -i '/^network:/,/protocol: tcp/d' microagent.yaml
microagent create; debugfs -R 'cat /status' /tmp/workspace.ext4 2>/dev/null
microagent start research; microagent wait research; echo $?; microagent delete research
rm microagent.yaml

microagent create \
  --name research \
  --image docker.io/library/ubuntu:24.04 \
  --disk workspace=/tmp/workspace.ext4:/workspace:rw
microagent delete research

microagent create \
  --name research \
  --image docker.io/library/ubuntu:24.04 \
  --bundle config=/tmp/config.tar:/config:ro
microagent delete research

microagent create \
  --id agent-1 \
  --role workload \
  --kernel /tmp/kernel \
  --rootfs /tmp/rootfs.ext4 \
  --state-dir /tmp/microagent
microagent --state-dir /tmp/microagent start agent-1
microagent --state-dir /tmp/microagent exec agent-1 hostname
microagent --state-dir /tmp/microagent delete -f agent-1

microagent create --dry-run \
  --id agent-1 \
  --kernel /tmp/kernel \
  --rootfs /tmp/rootfs.ext4 \
  --state-dir /tmp/microagent | sed 's/"cpuCount": [12]/"cpuCount": N/'
microagent --state-dir /tmp/microagent list

echo '{"name": "research", "image": "docker.io/library/ubuntu:24.04", "setup": []}' >request.json
microagent create --json request.json; microagent delete research

microagent --json create research --image docker.io/library/ubuntu:24.04 | grep -E '"(workspace|state|reference)"'
microagent delete research

microagent create --name research --publish 8080:80 --network isolated
microagent create --name research --network bridged --network-interface br0 \
  --image docker.io/library/ubuntu:24.04
microagent delete research
"#;

const CREATED: &str = r#"research
2
research
research
ready
research
research
research
bash of research
research
research
research
research
ready
research
research
1
research
research
research
research
research
agent-1
agent-1
agent-1
agent-1
{
  "name": "agent-1",
  "role": "workload",
  "rootfs": "/tmp/rootfs.ext4",
  "kernel": "/tmp/kernel",
  "resources": {
    "memoryMiB": 512,
    "cpuCount": N
  },
  "restart": "never",
  "shell": "/bin/sh",
  "hostname": "agent-1",
  "network": {
    "mode": "isolated"
  }
}
NAME  STATE  EXIT  SINCE  IMAGE  CREATED
research
research
  "workspace": "research",
  "state": "prepared",
    "reference": "docker.io/library/ubuntu:24.04",
research
microagent: a guest without a network publishes no ports: mode isolated
  use --network user, or publish none
research
research
"#;

const RUN: &str = r#"
microagent run \
  --image docker.io/library/ubuntu:24.04 \
  --exec "uname -a" | cut -d ' ' -f 1

microagent run \
  --image docker.io/library/ubuntu:24.04 \
  --profile medium \
  --exec "apt-get update" >/dev/null 2>&1
# Its command's own code: there is no network yet.
[ $? -ne 125 ] && echo ran

microagent run \
  --image docker.io/library/busybox:1.36 \
  --setup "mkdir -p /workspace" \
  --setup "echo ready > /workspace/status" \
  --exec "cat /workspace/status"

microagent run \
  --image docker.io/library/ubuntu:24.04 \
  --exec "uname -a" \
  --kernel /tmp/Image | cut -d ' ' -f 1
"#;

#[test]
fn each_example_of_create_and_run_does_what_it_says() {
    root_or_skip!();
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let busybox = or_skip!(Layout::busybox());
    let debian = or_skip!(image::debian());
    let registry = or_skip!(Registry::start());
    let debian = format!("oci:{}:debian", debian.display());
    registry.push(&debian, "library/ubuntu:24.04").unwrap();
    let busybox = busybox.reference("latest");
    registry.push(&busybox, "library/busybox:1.36").unwrap();
    let mirrors = serde_json::json!({
        "registries": { "docker.io": { "mirrors": [registry.address()] } }
    });
    std::fs::write(host.path("registries.json"), mirrors.to_string()).unwrap();
    let text = host
        .shell_with_mounts(&format!("{PREPARE}{CREATE}{RUN}"))
        .deadline(Duration::from_secs(400))
        .finish()
        .text();
    assert_eq!(text, format!("{CREATED}Linux\nran\nready\nLinux\n"));
    host.assert_clean();
}
