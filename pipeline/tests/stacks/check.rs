//! Builds a stack and compares the file system with the model, the kernel and umoci.

use std::path::Path;
use std::sync::Arc;

use microagent_cas::Store;
use microagent_pipeline::{DiskError, Error, Pipeline, Reference, Rootfs, RootfsOptions, Silent};
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

use crate::member::Stack;
use crate::model::{Model, Refused};
use crate::strategy::{self, Scope};
use crate::tree::{Times, Tree, difference};
use crate::{image, kernel, layout, umoci};

/// Checks the property on `cases` random stacks; `PROPTEST_CASES` overrides the
/// number.
///
/// # Panics
/// If the property fails, with the smallest failing stack.
#[track_caller]
pub fn check(cases: u32, scope: Scope, property: fn(&Stack) -> Result<(), TestCaseError>) {
    let requested = std::env::var("PROPTEST_CASES").ok();
    let cases = requested
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(cases);
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_time: 60_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/stacks/regressions.txt",
        ))),
        ..Config::default()
    });
    let result = runner.run(&strategy::stack(scope), |stack| property(&stack));
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// The pipeline's tree equals the model's, or both refuse the image.
pub fn model(stack: &Stack) -> Result<(), TestCaseError> {
    let expected = model_tree(stack);
    let built = build(stack);
    let (expected, rootfs) = match (expected, &built.outcome) {
        (Ok(tree), Ok(rootfs)) => (tree, rootfs),
        (Err(_), Err(Error::Merge(_))) => return Ok(()),
        // Rare: the built-in writer cannot store some non-UTF-8 names in a large
        // directory.
        (Ok(tree), Err(Error::Disk(DiskError::Name { .. })))
            if (tree.names.keys()).any(|name| std::str::from_utf8(name).is_err()) =>
        {
            return Ok(());
        }
        (expected, outcome) => {
            let expected = expected.map(|_| "a tree");
            let outcome = outcome.as_ref().map(|_| "a file system");
            return fail(format!(
                "the model: {expected:?}; the pipeline: {outcome:?}"
            ));
        }
    };
    let expected = expected.lines(Times::All);
    let found = image::read(&rootfs.path).lines(Times::All);
    same("- model, + file system", &expected, &found)
}

/// `e2fsck` reports no errors, and the kernel lists the tree of the model.
pub fn kernel(stack: &Stack) -> Result<(), TestCaseError> {
    let built = build(stack);
    let (Ok(expected), Ok(rootfs)) = (model_tree(stack), &built.outcome) else {
        // `model` checks that both refuse.
        return Ok(());
    };
    if let Some(faults) = kernel::faults(&rootfs.path) {
        return fail(faults);
    }
    let expected = expected.lines(Times::All);
    let found = kernel::lines(&rootfs.path);
    same("- model, + kernel", &expected, &found)
}

/// The pipeline's tree equals umoci's.
pub fn umoci(stack: &Stack) -> Result<(), TestCaseError> {
    let built = build(stack);
    let rootfs = match &built.outcome {
        Ok(rootfs) => rootfs,
        Err(error) => return fail(format!("the pipeline: {error}")),
    };
    let layout = built.directory.path().join("layout");
    let expected = match umoci::unpacked(&layout) {
        Ok(tree) => tree.lines(Times::ExceptDirectories),
        Err(error) => return fail(format!("umoci: {error}")),
    };
    let found = image::read(&rootfs.path).lines(Times::ExceptDirectories);
    same("- umoci, + file system", &expected, &found)
}

/// The result of one build. Dropping it deletes its files.
struct Built {
    directory: tempfile::TempDir,
    outcome: Result<Rootfs, Error>,
}

fn build(stack: &Stack) -> Built {
    // The store calls fsync often; tmpfs makes that free.
    let memory = Path::new("/dev/shm");
    let directory = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
    let directory = directory.unwrap();
    let layout = directory.path().join("layout");
    layout::write(&layout, stack);
    let store = Store::open(&directory.path().join("cas")).unwrap();
    let pipeline = Pipeline::new(store, Arc::new(Silent));
    let reference = format!("oci:{}:latest", layout.display());
    let reference: Reference = reference.parse().unwrap();
    let image = pipeline.resolve(&reference).unwrap();
    let sized = |size_mib| {
        let options = RootfsOptions {
            size_mib,
            ..RootfsOptions::default()
        };
        pipeline.rootfs(&image, &options)
    };
    let outcome = match sized(stack.size_mib) {
        // The minimum size that the error reports must be enough.
        Err(Error::Disk(DiskError::TooSmall { minimum_mib, .. })) => sized(Some(minimum_mib)),
        outcome => outcome,
    };
    Built { directory, outcome }
}

fn model_tree(stack: &Stack) -> Result<Tree, Refused> {
    let mut model = Model::default();
    for layer in &stack.layers {
        model.begin_layer();
        for member in &layer.members {
            model.apply(member)?;
        }
    }
    Ok(model.tree())
}

fn same(sides: &str, expected: &[String], found: &[String]) -> Result<(), TestCaseError> {
    match expected == found {
        true => Ok(()),
        false => fail(format!("{sides}:\n{}", difference(expected, found))),
    }
}

fn fail(reason: String) -> Result<(), TestCaseError> {
    Err(TestCaseError::fail(reason))
}
