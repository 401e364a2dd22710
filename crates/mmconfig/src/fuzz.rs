//! Damaged files: an error or a value, never a panic.

use std::path::Path;

use crate::file::read_bytes;

const CONFIG: &str = r"_base_ = ['base.py']
# comment
norm_cfg = dict(mean=[0.485, .5e0], std=(0.229, 1_0.))
train_pipeline = [
    dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.)),
    dict(type='Normalize', **norm_cfg)]
prefetch = not True
if not prefetch and len_ < 0x1F or None is None:
    train_pipeline.extend([dict(type='ToTensor')])
elif prefetch: pass
else:
    train_pipeline += [{'a': r'\d', '''b''': 'c\x41\u00e9' 'd'}]
data = dict(train=dict(pipeline=train_pipeline, **{{_base_.more}}), n=range(0, 8))
data['train']['x'] = -3 ** 2 // 7 % 4 if 'a' in data else [1, *norm_cfg['mean']]
a, b = 1, 2; lr = a * 2e-4 / b
model = dict(neck=dict(_delete_=True, type='L'))
";
const BASE: &str = "len_ = 1\nmore = dict(a=[1, 2], b=None)\nmodel = dict(neck=dict(c=1))\n";

/// Numerical Recipes' 64-bit congruential generator: the same damage in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

/// Reads it; what there is to say fits one line.
fn survives(folder: &Path, bytes: &[u8]) -> bool {
    match read_bytes(&folder.join("a.py"), bytes.to_vec()) {
        Ok(config) => {
            for (_, value) in config.root.iter() {
                assert!(value.to_string().chars().count() < 100);
            }
            true
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.contains('\n') && said.len() < 2000, "{said:?}");
            false
        }
    }
}

#[test]
fn damage_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("base.py"), BASE).unwrap();
    let whole = CONFIG.replace("len_ <", "1 <");
    assert!(
        survives(folder, whole.as_bytes()),
        "the undamaged file is understood"
    );
    let bytes = whole.as_bytes();
    let mut random = Random(20261124);
    let mut understood = 0;
    for end in 0..bytes.len() {
        survives(folder, &bytes[..end]);
        survives(folder, &bytes[end..]);
    }
    // Signs that mean something do more damage than arbitrary bytes.
    let signs = b"()[]{}'\"\\#,:=*.-+ \n\t\r_0e9\x00\x80\xff<>%/!@&|^~;";
    for _ in 0..20_000 {
        let mut damaged = bytes.to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(damaged.len());
            let sign = signs[random.below(signs.len())];
            match random.below(5) {
                0 => damaged[at] ^= 1 << random.below(8),
                1 => damaged[at] = sign,
                2 => damaged.insert(at, sign),
                3 => {
                    damaged.remove(at);
                }
                _ => {
                    // A piece from somewhere else.
                    let from = random.below(bytes.len());
                    let end = (from + random.below(40)).min(bytes.len());
                    damaged.splice(at..at, bytes[from..end].iter().copied());
                }
            }
        }
        understood += usize::from(survives(folder, &damaged));
    }
    // The damage is not so large that only the first token is ever looked at.
    assert!((500..19_500).contains(&understood), "{understood}");
}
