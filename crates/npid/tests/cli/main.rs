//! The real binary, each case in a folder of its own.

mod bad_input;
mod bank_file;
mod bench;
mod export;
mod import;
mod mmselfsup;
mod plan;
mod run;
mod scratch;
mod tools;
