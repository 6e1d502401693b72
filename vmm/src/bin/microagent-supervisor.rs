//! The process that runs one VM.

fn main() {}
