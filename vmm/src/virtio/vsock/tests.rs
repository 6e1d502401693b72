//! Driven by a model of a guest's driver.
