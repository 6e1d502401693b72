//! What a guest wrote and a disk of the host did not take.

use microagent_proto::warning::{DiskFailure, Warning};

/// The first of the `warnings` of a VM that says that data of its guest is lost, as one line.
pub fn data_loss(warnings: &[Warning]) -> Option<String> {
    let lost = |warning: &Warning| match warning {
        Warning::Disk(failure) if failure.operation.loses_data() => Some(describe(failure)),
        Warning::Disk(_) | Warning::Log(_) => None,
    };
    warnings.iter().find_map(lost)
}

fn describe(failure: &DiskFailure) -> String {
    let disk = match failure.index {
        0 => "the root disk".to_owned(),
        index => format!("disk {index}"),
    };
    format!("data of {disk} is lost: {}", failure.error)
}

#[cfg(test)]
mod tests {
    use microagent_proto::warning::DiskOperation;

    use super::*;

    #[test]
    fn failed_writes_and_flushes_lose_data() {
        let failure = |index, operation| {
            Warning::Disk(DiskFailure {
                index,
                operation,
                errno: Some(28),
                error: "No space left on device".into(),
            })
        };
        let harmless = [
            Warning::Log("x".into()),
            failure(0, DiskOperation::Read),
            failure(0, DiskOperation::Discard),
        ];
        assert_eq!(data_loss(&harmless), None);
        let lost = [
            failure(0, DiskOperation::Read),
            failure(0, DiskOperation::Flush),
            failure(2, DiskOperation::Write),
        ];
        assert_eq!(
            data_loss(&lost).unwrap(),
            "data of the root disk is lost: No space left on device"
        );
        assert!(data_loss(&lost[2..]).unwrap().starts_with("data of disk 2"));
    }
}
