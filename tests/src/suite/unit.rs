//! The units of the suite and their order.

use std::collections::BTreeMap;
use std::process::Command;

use super::Program;
use crate::{Error, tool};

/// Programs with independent modules.
const DIVIDED: [&str; 2] = ["e2e", "vm"];

/// The longest units and those with labs, with their number of concurrent labs. They start first,
/// in this order: one that starts last would run alone at the end.
const FIRST: [(&str, usize); 28] = [
    ("tests e2e run_lab", 2),
    ("tests e2e monitor_lab", 2),
    ("tests e2e run_qemu", 0),
    ("tests e2e lab", 1),
    ("tests e2e chaos", 1),
    ("tests e2e scale", 1),
    ("tests e2e power_cut", 1),
    ("tests e2e clients_lab", 1),
    ("tests e2e network_lab", 1),
    ("tests e2e snapshots_lab", 1),
    ("tests e2e saved_lab", 1),
    ("tests e2e suspended_lab", 1),
    ("tests e2e host", 1),
    ("tests e2e kernel_build", 1),
    ("benches boot_bench", 1),
    ("benches workspace_bench", 1),
    ("vmm vm kvm_streams", 1),
    ("vmm vm kvm_linux", 1),
    ("vmm vm kvm_disks", 1),
    ("vmm vm kvm_snapshot", 1),
    ("vmm vm net", 1),
    ("tests e2e corporate", 0),
    ("tests e2e network_host", 0),
    ("tests e2e network", 0),
    ("tests e2e clients_host", 0),
    ("tests e2e bad_input", 0),
    ("tests e2e nothing_lost", 0),
    ("pipeline stacks", 0),
];

/// Tests that run in one process, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The program.
    pub program: Program,
    /// The module, if the program is divided.
    pub module: Option<String>,
    /// The full names of its tests.
    pub tests: Vec<String>,
}

impl Unit {
    /// Its name in the report.
    pub fn name(&self) -> String {
        match &self.module {
            Some(module) => format!("{} {module}", self.program.name),
            None => self.program.name.clone(),
        }
    }

    /// Its number of concurrent labs.
    pub fn labs(&self) -> usize {
        FIRST.get(self.rank()).map_or(0, |&(_, labs)| labs)
    }

    /// Its position in [`FIRST`], or behind it.
    fn rank(&self) -> usize {
        let name = self.name();
        let position = FIRST.iter().position(|(unit, _)| *unit == name);
        position.unwrap_or(FIRST.len())
    }

    /// The number of processors it needs: one for each lab, at least one.
    pub fn processors(&self) -> usize {
        self.labs().max(1)
    }

    /// Keeps the tests whose names in the report, after that of the program, satisfy `wanted`.
    pub fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        let program = &self.program.name;
        self.tests
            .retain(|test| wanted(&format!("{program} {test}")));
    }
}

/// The units of these programs in start order. Runs each program to list its tests.
///
/// # Errors
/// If a program cannot be run.
pub fn units(programs: Vec<Program>) -> Result<Vec<Unit>, Error> {
    let mut units = Vec::new();
    for program in programs {
        let mut list = Command::new(&program.executable);
        list.args(["--list", "--format", "terse"]);
        let listing = tool::output(list.current_dir(&program.directory))?;
        units.extend(divide(program, &String::from_utf8_lossy(&listing)));
    }
    units.sort_by_key(Unit::rank);
    Ok(units)
}

/// `listing` has a line `path::of::test: test` for each test.
fn divide(program: Program, listing: &str) -> Vec<Unit> {
    let tests = listing
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    let mut modules: BTreeMap<Option<&str>, Vec<String>> = BTreeMap::new();
    for test in tests {
        let module = test.split("::").next();
        let module = module.filter(|_| DIVIDED.contains(&program.target.as_str()));
        modules.entry(module).or_default().push(test.to_owned());
    }
    let unit = |(module, tests): (Option<&str>, _)| Unit {
        program: program.clone(),
        module: module.map(str::to_owned),
        tests,
    };
    modules.into_iter().map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, target: &str) -> Program {
        Program {
            name: name.into(),
            target: target.into(),
            executable: "/t/program".into(),
            directory: "/w".into(),
        }
    }

    #[test]
    fn modules_of_a_divided_program_are_units() {
        let listing = "a::one: test\na::two: test\nb::c::three: test\na::four: benchmark\n";
        let units = divide(program("tests e2e", "e2e"), listing);
        let names: Vec<_> = units.iter().map(Unit::name).collect();
        assert_eq!(names, ["tests e2e a", "tests e2e b"]);
        assert_eq!(units[0].tests, ["a::one", "a::two"]);
        let units = divide(program("cas store", "store"), listing);
        assert_eq!(units.len(), 1);
        assert_eq!(units[0].tests, ["a::one", "a::two", "b::c::three"]);
        assert_eq!(divide(program("x", "x"), "").len(), 0);
    }

    #[test]
    fn tests_are_chosen_by_the_names_in_the_report() {
        let listing = "store::one: test\nstore::two: test\n";
        let mut units = divide(program("cas store", "store"), listing);
        units[0].keep(|test| test == "cas store store::two");
        assert_eq!(units[0].tests, ["store::two"]);
    }

    #[test]
    fn the_longest_come_first_and_the_rest_in_cargos_order() {
        let mut units: Vec<Unit> = ["zebra", "tests e2e lab", "ant", "tests e2e run_lab"]
            .into_iter()
            .flat_map(|name| divide(program(name, "t"), "a: test\n"))
            .collect();
        units.sort_by_key(Unit::rank);
        let names: Vec<_> = units.iter().map(Unit::name).collect();
        assert_eq!(
            names,
            ["tests e2e run_lab", "tests e2e lab", "zebra", "ant"]
        );
    }
}
