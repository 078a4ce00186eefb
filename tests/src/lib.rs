//! What the tests that cross crates share: a stack below a root of its own, guests, processes, skipping.

pub mod app;
pub mod daemon;
pub mod fixture;
pub mod lab;
pub mod served;
pub mod traces;
