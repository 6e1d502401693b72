//! The printed report of the suite.

use std::fmt;
use std::time::Duration;

use super::{Finished, Outcome, Test, Unit};

/// The reason of ignored tests that other tests run as child processes.
const PART: &str = "a part of other tests";

/// The count so far, and the duration of each test.
#[derive(Debug, Default)]
pub struct Summary {
    passed: usize,
    failed: Vec<String>,
    ignored: Vec<String>,
    times: Vec<(Duration, String)>,
}

impl Summary {
    /// Adds a unit and returns its line of the report.
    pub fn add(&mut self, unit: &Unit, finished: &Finished) -> String {
        let name = unit.name();
        let failures = self.failed.len();
        for test in &finished.tests {
            let full = format!("{} {}", unit.program.name, test.name);
            match &test.outcome {
                Outcome::Passed => {}
                Outcome::Failed => self.failed.push(full.clone()),
                Outcome::Ignored(reason) if reason == PART => continue,
                Outcome::Ignored(reason) => self.ignored.push(format!("{full}: {reason}")),
            }
            self.times.push((test.elapsed, full));
        }
        let reported = |test: &&Test| test.outcome == Outcome::Passed;
        let passed = match finished.count {
            Some(count) => count.passed,
            None => finished.tests.iter().filter(reported).count(),
        };
        self.passed += passed;
        if finished.is_overdue {
            let elapsed = finished.elapsed.as_secs();
            let after = match finished.tests.last() {
                Some(test) => format!("after {}", test.name),
                None => "in its first test".to_owned(),
            };
            self.failed.push(format!(
                "{name}: stopped at its limit of {elapsed} s, {after}"
            ));
        } else if finished.count.is_none() {
            self.failed
                .push(format!("{name}: its process died before its last test"));
        } else if !finished.is_success && self.failed.len() == failures {
            self.failed.push(format!("{name}: its process failed"));
        }
        let failed = match self.failed.len() - failures {
            0 => String::new(),
            failed => format!(", {failed} FAILED"),
        };
        format!(
            "{:7.1} s, processor {:6.1} s: {name}: {passed} passed{failed}",
            finished.elapsed.as_secs_f64(),
            finished.processor_time.as_secs_f64(),
        )
    }

    /// Whether nothing has failed.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty()
    }

    /// The `count` slowest tests, one line each, slowest first.
    pub fn slowest(&self, count: usize) -> Vec<String> {
        let mut times: Vec<_> = self.times.iter().collect();
        times.sort_by(|one, other| other.cmp(one));
        let line = |(elapsed, name): &&(Duration, String)| {
            format!("{:7.1} s  {name}", elapsed.as_secs_f64())
        };
        times.iter().take(count).map(line).collect()
    }
}

/// The count in libtest's format, after a line for each failed or ignored test.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.failed {
            writeln!(f, "failed: {name}")?;
        }
        for name in &self.ignored {
            writeln!(f, "test {name} ... ignored")?;
        }
        let result = if self.is_success() { "ok" } else { "FAILED" };
        write!(
            f,
            "test result: {result}. {} passed; {} failed",
            self.passed,
            self.failed.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Count, Program};
    use super::*;

    fn unit() -> Unit {
        let program = Program {
            name: "cas store".into(),
            target: "store".into(),
            executable: "/t".into(),
            directory: "/w".into(),
        };
        let tests = Vec::new();
        Unit {
            program,
            module: None,
            tests,
        }
    }

    fn finished(outcomes: &[(&str, Outcome, u64)]) -> Finished {
        let test = |(name, outcome, seconds): &(&str, Outcome, u64)| Test {
            name: (*name).to_owned(),
            outcome: outcome.clone(),
            elapsed: Duration::from_secs(*seconds),
        };
        let tests: Vec<Test> = outcomes.iter().map(test).collect();
        let number = |outcome| tests.iter().filter(|test| test.outcome == outcome).count();
        let count = Count {
            passed: number(Outcome::Passed),
            failed: number(Outcome::Failed),
        };
        Finished {
            is_success: count.failed == 0,
            is_overdue: false,
            count: Some(count),
            tests,
            output: String::new(),
            elapsed: Duration::from_millis(12_340),
            processor_time: Duration::from_secs(3),
        }
    }

    #[test]
    fn the_slowest_come_first_and_parts_of_tests_are_not_counted() {
        let mut summary = Summary::default();
        let outcomes = [
            ("a", Outcome::Passed, 2),
            ("b", Outcome::Passed, 5),
            ("c", Outcome::Ignored(PART.into()), 0),
        ];
        let line = summary.add(&unit(), &finished(&outcomes));
        assert_eq!(line, "   12.3 s, processor    3.0 s: cas store: 2 passed");
        assert_eq!(
            summary.slowest(20),
            ["    5.0 s  cas store b", "    2.0 s  cas store a"]
        );
        assert_eq!(summary.slowest(1).len(), 1);
        assert!(summary.is_success());
        assert_eq!(summary.to_string(), "test result: ok. 2 passed; 0 failed");
    }

    #[test]
    fn failures_crashes_and_ignored_tests_are_named() {
        let mut summary = Summary::default();
        let outcomes = [
            ("a", Outcome::Failed, 1),
            ("b", Outcome::Ignored("slow".into()), 0),
        ];
        let mut finished = finished(&outcomes);
        finished.count = None;
        let line = summary.add(&unit(), &finished);
        assert!(line.ends_with("0 passed, 2 FAILED"), "{line}");
        assert!(!summary.is_success());
        assert_eq!(
            summary.to_string(),
            "failed: cas store a\nfailed: cas store: its process died before its last test\n\
             test cas store b: slow ... ignored\ntest result: FAILED. 0 passed; 2 failed"
        );
    }

    #[test]
    fn a_unit_that_was_stopped_is_named_with_its_last_test() {
        let mut summary = Summary::default();
        let mut finished = finished(&[("a", Outcome::Passed, 1)]);
        (finished.count, finished.is_success, finished.is_overdue) = (None, false, true);
        summary.add(&unit(), &finished);
        assert_eq!(
            summary.to_string(),
            "failed: cas store: stopped at its limit of 12 s, after a\n\
             test result: FAILED. 1 passed; 1 failed"
        );
    }

    #[test]
    fn a_test_whose_line_was_broken_is_counted() {
        let mut summary = Summary::default();
        let mut finished = finished(&[("a", Outcome::Passed, 1)]);
        finished.count = Some(Count {
            passed: 2,
            failed: 0,
        });
        summary.add(&unit(), &finished);
        assert_eq!(summary.to_string(), "test result: ok. 2 passed; 0 failed");
    }

    #[test]
    fn a_process_that_fails_without_a_failed_test_is_a_failure() {
        let mut summary = Summary::default();
        let mut finished = finished(&[("a", Outcome::Passed, 1)]);
        finished.is_success = false;
        summary.add(&unit(), &finished);
        assert_eq!(
            summary.to_string(),
            "failed: cas store: its process failed\ntest result: FAILED. 1 passed; 1 failed"
        );
    }
}
