//! The report on a VM that seems to hang.

use microagent_proto::control::{CONSOLE_TAIL, DIAGNOSIS_LIMIT, FromSupervisor};

use crate::console::Console;
use crate::engine::RunningVm;

/// The answer to `Diagnose`. Takes up to ten seconds, in which no other message is handled.
pub(super) fn message(console: &Console, vm: &mut dyn RunningVm) -> FromSupervisor {
    let tail = printable(&console.tail(CONSOLE_TAIL));
    FromSupervisor::Diagnosis {
        console: tail,
        report: shortened(printable(&vm.diagnose())),
    }
}

/// Replaces everything except printable ASCII and line ends: the guest controls the text, and it is
/// shown on a terminal.
fn printable(text: &str) -> String {
    let replace = |c: char| match c {
        '\n' | ' '..='~' => c,
        '\t' => ' ',
        _ => '?',
    };
    text.chars().filter(|&c| c != '\r').map(replace).collect()
}

fn shortened(mut text: String) -> String {
    const MARK: &str = "\n(shortened)\n";
    if text.len() > DIAGNOSIS_LIMIT {
        text.truncate(DIAGNOSIS_LIMIT - MARK.len());
        text.push_str(MARK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(printable("a\r\n\u{1b}[2Jb\té"), "a\n?[2Jb ?");
    }

    #[test]
    fn a_report_is_cut_at_its_limit() {
        let text = shortened("x".repeat(DIAGNOSIS_LIMIT + 1));
        assert_eq!(text.len(), DIAGNOSIS_LIMIT);
        assert!(text.ends_with("x\n(shortened)\n"));
        assert_eq!(shortened("short".into()), "short");
    }
}
