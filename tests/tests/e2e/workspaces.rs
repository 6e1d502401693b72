//! Workspaces without a VM: what is validated before anything happens, and many at once. What their
//! VMs do is in the list for every engine (`run_list.rs`).

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{built_kernel, or_skip, tool};

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
        w create --dry-run -e B=1 | sed "s#$PWD#HERE#"; echo $?
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
  "image": "oci:/nowhere:latest",
  "env": {
    "B": "1",
    "PORT": "80"
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
  "image": "oci:/nowhere:latest",
  "profile": "tiny",
  "resources": {
    "memoryMiB": 300
  }
}
0
microagent: cannot read absent.yaml: No such file or directory (os error 2)
1
microagent: there is no workspace "a"
  list them: microagent list
1
0
NAME  STATE  IMAGE  CREATED
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
        "{created}\n30\nNAME  STATE  IMAGE  CREATED\nmicroagent: workspace \"w7\" already exists\n  \
         use another name, or delete it first: microagent delete w7\n1\n1\n30\n\
         NAME  STATE  IMAGE  CREATED\n0\n0\n"
    );
    assert_eq!(output(&host, script, &layout.reference("latest")), expected);
    host.assert_clean();
}
