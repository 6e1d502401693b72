//! Builds a stack and compares it with what others make of it.

use std::path::Path;
use std::sync::Arc;

use microagent_cas::Store;
use microagent_pipeline::{Error, Pipeline, Reference, Rootfs, RootfsError, RootfsOptions, Silent};
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

use crate::member::Stack;
use crate::model::{Model, Refused};
use crate::strategy::{self, Manner};
use crate::tree::{Times, Tree, difference};
use crate::{image, kernel, layout, umoci};

/// Whether the property holds of so many stacks, or of as many as
/// `PROPTEST_CASES` says.
///
/// # Panics
/// With the smallest stack of which it does not.
#[track_caller]
pub fn check(cases: u32, manner: Manner, property: fn(&Stack) -> Result<(), TestCaseError>) {
    let told = std::env::var("PROPTEST_CASES").ok();
    let cases = told.and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_time: 60_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/stacks/regressions.txt",
        ))),
        ..Config::default()
    });
    let result = runner.run(&strategy::stack(manner), |stack| property(&stack));
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// The pipeline's tree equals the model's, or both refuse the image.
pub fn model(stack: &Stack) -> Result<(), TestCaseError> {
    let expected = modelled(stack);
    let built = build(stack);
    let (expected, rootfs) = match (expected, &built.outcome) {
        (Ok(tree), Ok(rootfs)) => (tree, rootfs),
        (Err(_), Err(Error::Merge(_))) => return Ok(()),
        // A file system of ours has no place for that, and says so.
        (Ok(tree), Err(Error::Rootfs(RootfsError::LostFound)))
            if tree.names.contains_key(&b"/lost+found"[..]) =>
        {
            return Ok(());
        }
        // Rare: a large directory, and a name that is very short or unlucky.
        (Ok(tree), Err(Error::Rootfs(RootfsError::Name { .. })))
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

/// `e2fsck` finds nothing, and the kernel lists what the model says.
pub fn kernel(stack: &Stack) -> Result<(), TestCaseError> {
    let built = build(stack);
    let (Ok(expected), Ok(rootfs)) = (modelled(stack), &built.outcome) else {
        // Whether both refuse is the business of `model`.
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
        Ok(tree) => tree.lines(Times::NotOfDirectories),
        Err(error) => return fail(format!("umoci: {error}")),
    };
    let found = image::read(&rootfs.path).lines(Times::NotOfDirectories);
    same("- umoci, + file system", &expected, &found)
}

/// An image that went through the pipeline; gone when this value is.
struct Built {
    directory: tempfile::TempDir,
    outcome: Result<Rootfs, Error>,
}

fn build(stack: &Stack) -> Built {
    // A store syncs a lot, which is not what is tested here.
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
        // What it says is the least size must be enough.
        Err(Error::Rootfs(RootfsError::TooSmall { least_mib, .. })) => sized(Some(least_mib)),
        outcome => outcome,
    };
    Built { directory, outcome }
}

fn modelled(stack: &Stack) -> Result<Tree, Refused> {
    let mut model = Model::default();
    for layer in &stack.layers {
        model.begin_layer();
        for member in &layer.members {
            model.apply(member)?;
        }
    }
    Ok(model.tree().without_lost_and_found())
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
