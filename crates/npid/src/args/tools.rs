//! Flags of the commands around the work itself.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Output, thread_count};

/// Flags of `npid data fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// The data set
    #[arg(value_enum)]
    pub name: DataSet,
    /// Folder to bring it into [default: data/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// URL of a folder that holds the files under their published names [default: the data set's
    /// home page]
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// What `npid data fetch` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataSet {
    /// 60,000 pictures of 32x32 in 10 classes; 162 MB.
    Cifar10,
    /// 60,000 pictures of 32x32 in 100 classes; 161 MB.
    Cifar100,
    /// 70,000 digits of 28x28; 11 MB.
    Mnist,
    /// 13,000 labelled and 100,000 unlabelled pictures of 96x96; 2.5 GB.
    Stl10,
}

impl DataSet {
    /// As it is typed, and as the catalogue has it.
    pub fn name(self) -> &'static str {
        match self {
            DataSet::Cifar10 => "cifar10",
            DataSet::Cifar100 => "cifar100",
            DataSet::Mnist => "mnist",
            DataSet::Stl10 => "stl10",
        }
    }
}

/// Flags of `npid doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Where runs will go, to look how much room there is
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub out: PathBuf,
    /// Threads to measure with [default: all cores]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `npid completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Flags of `npid man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for every command into this folder, instead of npid's own to standard output
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_set_is_in_the_catalogue() {
        let names: Vec<&str> = DataSet::value_variants()
            .iter()
            .map(|set| set.name())
            .collect();
        assert_eq!(names, npid_fetch::catalog::NAMES);
        for set in DataSet::value_variants() {
            assert_eq!(set.to_possible_value().unwrap().get_name(), set.name());
        }
    }
}
