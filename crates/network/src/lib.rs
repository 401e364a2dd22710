//! Networks and methods as plain data, and the random numbers that everything shares.

pub mod philox;
