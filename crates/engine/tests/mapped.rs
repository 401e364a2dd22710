//! A bank in a mapped file computes what one in memory does, and gives memory back without
//! changing a row.

mod common;

use std::fs;
use std::io::{Seek, SeekFrom, Write};

use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::mapped::{MappedRows, encode};
use npid_engine::reference::Reference;
use npid_engine::{Description, Draws, Dtype, Engine, Objective};
use npid_network::method::{Head, RowStorage, RowType};

use common::cases::{Case, case};
use common::{assert_same_bits, images, pixels};

const SAMPLED: Draws<'static> = Draws::Sampled {
    epoch: 1,
    occurrences: &[0, 0, 1, 0],
};

fn description(case: &Case, storage: RowStorage) -> Description {
    let mut description = case.description();
    if let Some(method) = &mut description.method {
        method.memory_bank.storage = storage;
    }
    description
}

fn cpu(description: &Description, case: &Case) -> Cpu {
    let options = Options {
        threads: 2,
        isa: Isa::detect().unwrap(),
        dtype: Dtype::F32,
    };
    Cpu::compile(description, case.sizes, options).unwrap()
}

/// Steps over one engine with its rows in memory and one with the same in a file; after each the
/// file gets the rows that changed, and their memory is given back.
fn steps(case: &Case) {
    let memory_bank = description(case, RowStorage::Memory)
        .method
        .unwrap()
        .memory_bank;
    let (n, dim) = (memory_bank.length, memory_bank.feat_dim);
    let mut memory = cpu(&description(case, RowStorage::Memory), case);
    let all: Vec<u64> = (0..n as u64).collect();
    let start = memory.read_rows(&all).unwrap();
    let mut bytes = Vec::new();
    encode(memory_bank.dtype, &start, &mut bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    fs::write(&path, &bytes).unwrap();
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut mapped = cpu(&description(case, RowStorage::File), case);
    assert!(mapped.read_rows(&all).unwrap().iter().all(|&x| x == 0.0));
    assert!(mapped.info().planned_bytes < memory.info().planned_bytes);
    let rows = MappedRows::open(&file, memory_bank.dtype, n * dim).unwrap();
    mapped.map_rows(rows).unwrap();
    assert_same_bits("at the start", &memory, &mapped);

    let batch = pixels(4, case.sizes, case.in_channels, 1);
    let stride = dim * memory_bank.dtype.bytes();
    for step in 0..6u64 {
        let mut rows: Vec<u64> = (0..4).map(|i| (step * 4 + i * 3) % n as u64).collect();
        for engine in [&mut memory, &mut mapped] {
            let objective = Objective::Npid {
                rows: &rows,
                draws: SAMPLED,
            };
            engine.step(images(&batch, 4), objective, 0.05).unwrap();
        }
        assert_same_bits("a step", &memory, &mapped);
        rows.sort_unstable();
        rows.dedup();
        // The file is as it was until it is written to.
        assert!(step > 0 || fs::read(&path).unwrap() == bytes);
        let (written, newer) = rows.split_at(rows.len() / 2);
        let values = mapped.read_rows(written).unwrap();
        for (&row, values) in written.iter().zip(values.chunks_exact(dim)) {
            let mut bytes = Vec::new();
            encode(memory_bank.dtype, values, &mut bytes);
            file.seek(SeekFrom::Start(row * stride as u64)).unwrap();
            file.write_all(&bytes).unwrap();
        }
        mapped.release_rows(written, newer);
        assert_same_bits("given back", &memory, &mapped);
        // Later steps begin with the rest in the file too.
        let values = mapped.read_rows(newer).unwrap();
        for (&row, values) in newer.iter().zip(values.chunks_exact(dim)) {
            let mut bytes = Vec::new();
            encode(memory_bank.dtype, values, &mut bytes);
            file.seek(SeekFrom::Start(row * stride as u64)).unwrap();
            file.write_all(&bytes).unwrap();
        }
        mapped.release_rows(newer, &[]);
        assert_same_bits("all of it", &memory, &mapped);
    }
}

#[test]
fn a_mapped_bank_computes_what_one_in_memory_does() {
    for head in [
        Head::Contrastive { temperature: 0.2 },
        Head::Softmax { temperature: 0.2 },
    ] {
        for (_, dtype) in RowType::NAMED {
            steps(&Case {
                head: Some(head),
                rows_dtype: dtype,
                rows: 2500, // several pages
                ..case("r18-w3-contrastive")
            });
        }
    }
}

/// That memory is given back shows where the file says something else.
#[cfg(target_os = "linux")]
#[test]
fn pages_that_are_given_back_are_read_from_the_file_again() {
    let case = Case {
        rows: 2000,
        ..case("r18-w3-contrastive")
    };
    let description = description(&case, RowStorage::File);
    let dim = description.method.unwrap().memory_bank.feat_dim;
    assert_eq!(dim, 8); // 128 rows a page of 4 KB; 2,048 of 64 KB
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    fs::write(&path, vec![0; 2000 * dim * 4]).unwrap();
    let file = fs::File::open(&path).unwrap();
    let mut engine = cpu(&description, &case);
    let rows = MappedRows::open(&file, RowType::F32, 2000 * dim).unwrap();
    engine.map_rows(rows).unwrap();
    let ones = vec![1.0; 2 * dim];
    engine.write_rows(&[0, 1999], &ones).unwrap();
    assert_eq!(engine.read_rows(&[0, 1999]).unwrap(), ones);
    engine.release_rows(&[0], &[1]); // of the same page
    assert_eq!(engine.read_rows(&[0, 1999]).unwrap(), ones);
    engine.release_rows(&[0, 1999], &[]);
    assert_eq!(engine.read_rows(&[0, 1999]).unwrap(), vec![0.0; 2 * dim]);
}

/// A mapping must not be refused because all of it could change: a TiB, of which the disk holds
/// nothing yet.
#[cfg(target_os = "linux")]
#[test]
fn a_file_larger_than_memory_is_mapped() {
    let len = 1 << 38;
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create_new(folder.path().join("rows")).unwrap();
    file.set_len(1 << 40).unwrap();
    drop(file);
    let file = fs::File::open(folder.path().join("rows")).unwrap();
    let mapped = MappedRows::open(&file, RowType::F32, len).unwrap();
    assert_eq!(mapped.len(), len);
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = case("r18-w3-contrastive");
    let in_file = description(&case, RowStorage::File);
    let bank = in_file.method.unwrap().memory_bank;
    let len = bank.length * bank.feat_dim;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    fs::write(&path, vec![0; len * 4]).unwrap();
    let file = fs::File::open(&path).unwrap();
    for (dtype, len) in [
        (RowType::F32, len - 1),
        (RowType::Bf16, len),
        (RowType::F32, usize::MAX / 2),
    ] {
        assert!(MappedRows::open(&file, dtype, len).is_err());
    }
    let mut engine = cpu(&in_file, &case);
    let whole = || MappedRows::open(&file, RowType::F32, len).unwrap();
    let others = MappedRows::open(&file, RowType::Bf16, len * 2).unwrap();
    assert!(engine.map_rows(others).is_err());
    engine.map_rows(whole()).unwrap();
    let mut engine = cpu(&description(&case, RowStorage::Memory), &case);
    assert!(engine.map_rows(whole()).is_err());
    let text = match Reference::<f32>::compile(&in_file, case.sizes) {
        Ok(_) => panic!("the reference engine maps no file"),
        Err(error) => error.to_string(),
    };
    assert!(text.contains("memory_bank.storage"), "{text}");
}
