//! NPID as data: head, memory bank and negatives, and what an optimiser does.
//!
//! Symbols as in `docs/method.md`: B batch, N rows of the bank, D feature dimension, K negatives
//! per image, τ temperature, v_j row j, f_i the L2-normalised feature of image i.

use crate::Error;
use crate::alias::AliasTable;
use crate::graph::Network;
use crate::philox::{Purpose, Stream};

/// How similarities become a loss; losses are means over the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// MMSelfSup's `ContrastiveHead`: cross entropy of [f·v_i, f·v_neg1..K]/τ with target 0.
    Contrastive {
        /// τ, above 0.
        temperature: f32,
    },
    /// Exact softmax over all rows (Wu et al., equation 2; lemniscate's `--nce-k 0`).
    Softmax {
        /// τ, above 0.
        temperature: f32,
    },
}

impl Head {
    /// τ.
    pub fn temperature(&self) -> f32 {
        match *self {
            Head::Contrastive { temperature } | Head::Softmax { temperature } => temperature,
        }
    }

    /// Whether it compares with sampled negatives rather than with every row.
    pub fn samples(&self) -> bool {
        matches!(self, Head::Contrastive { .. })
    }
}

/// MMSelfSup's `SimpleMemory`: one row for each image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryBank {
    /// N, the number of images.
    pub length: usize,
    /// D.
    pub feat_dim: usize,
    /// Weight m of the NEW feature: v ← normalise((1-m)·v + m·f). (lemniscate weights the old.)
    pub momentum: f32,
}

/// The method: what the features are trained for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Npid {
    /// The loss.
    pub head: Head,
    /// The rows compared with.
    pub memory_bank: MemoryBank,
    /// K, negatives per image; unused by exact softmax.
    pub neg_num: usize,
    /// Whether a negative that hits the image's own row is drawn again.
    pub ensure_neg: bool,
}

impl Npid {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the key that can't be used, and why.
    pub fn check(&self) -> Result<(), Error> {
        let fail = |message: String| Err(Error::Method(message));
        let tau = self.head.temperature();
        if !tau.is_finite() || tau <= 0.0 {
            return fail(format!("head.temperature is {tau}; it must be above 0"));
        }
        let m = self.memory_bank.momentum;
        if !(0.0..=1.0).contains(&m) {
            return fail(format!("memory_bank.momentum is {m}; it must be 0 to 1"));
        }
        if self.memory_bank.length == 0 || self.memory_bank.feat_dim == 0 {
            return fail("memory_bank has no rows or no dimension".into());
        }
        if self.head.samples() {
            if self.neg_num == 0 {
                return fail("neg_num is 0; a contrastive head needs at least 1 negative".into());
            }
            if u32::try_from(self.neg_num).is_err() {
                return fail(format!(
                    "neg_num is {}; it must be below 2^32",
                    self.neg_num
                ));
            }
            if self.ensure_neg && self.memory_bank.length == 1 {
                return fail(
                    "ensure_neg with a single image: there is no other row to draw".into(),
                );
            }
        }
        Ok(())
    }

    /// The loss of features that know nothing: ln(K+1) or ln N.
    pub fn chance_loss(&self) -> f64 {
        self.chance_loss_among(self.memory_bank.length)
    }

    /// The same where only `rows` of the N rows are not excluded: ln(K+1) or ln `rows`, 0 for none.
    pub fn chance_loss_among(&self, rows: usize) -> f64 {
        match self.head {
            Head::Contrastive { .. } => ((self.neg_num + 1) as f64).ln(),
            Head::Softmax { .. } => (rows.max(1) as f64).ln(),
        }
    }
}

/// Draws negatives; what row is drawn depends on (seed, epoch, image, occurrence, position) alone.
#[derive(Clone, Debug)]
pub struct NegativeSampler {
    table: AliasTable,
    ensure_neg: bool,
    seed: u64,
}

impl NegativeSampler {
    /// Draws rows of `table`.
    ///
    /// # Errors
    /// If `ensure_neg` could ask for a row where only one can be drawn.
    pub fn new(table: AliasTable, ensure_neg: bool, seed: u64) -> Result<Self, Error> {
        if ensure_neg && !table.has_choice() {
            return Err(Error::Method(
                "ensure_neg: only one row can be drawn, so nothing is left beside it".into(),
            ));
        }
        Ok(NegativeSampler {
            table,
            ensure_neg,
            seed,
        })
    }

    /// The negatives of the image of `row`, to be asked for one by one.
    pub fn of(&self, epoch: u32, row: u64, occurrence: u32) -> Negatives<'_> {
        Negatives {
            sampler: self,
            stream: Stream::new(self.seed, Purpose::Negatives, epoch, row, occurrence),
            positive: row,
        }
    }
}

/// The negatives of one image; see [`NegativeSampler::of`].
#[derive(Clone, Debug)]
pub struct Negatives<'a> {
    sampler: &'a NegativeSampler,
    stream: Stream,
    positive: u64,
}

impl Negatives<'_> {
    /// Negative `k`, in 0..N.
    ///
    /// With `ensure_neg` a draw of the positive is rejected and repeated with fresh bits, which is
    /// a draw from the distribution without it.
    #[inline]
    pub fn get(&self, k: u32) -> u64 {
        let mut attempt = 0;
        loop {
            let row = self.sampler.table.draw(self.stream.block(k, attempt));
            if row != self.positive || !self.sampler.ensure_neg {
                return row;
            }
            attempt += 1;
        }
    }
}

/// Stochastic gradient descent as in `torch.optim.SGD`:
/// g ← g + wd·w; u ← μ·u + g (u = g in the first step); w ← w - lr·(g + μ·u if Nesterov, else u).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// μ.
    pub momentum: f32,
    /// Nesterov's look-ahead.
    pub nesterov: bool,
    /// wd, times each parameter's own factor.
    pub weight_decay: f32,
}

/// All an engine needs to know to compile its programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The network.
    pub network: Network,
    /// The method; without it only cross entropy and given gradients can be trained.
    pub method: Option<Npid>,
    /// The optimiser.
    pub optimizer: Sgd,
    /// Seed of the initial weights and of the negatives.
    pub seed: u64,
}

impl Description {
    /// Checks that the parts fit each other.
    ///
    /// # Errors
    /// Names what doesn't fit.
    pub fn check(&self) -> Result<(), Error> {
        self.network.check()?;
        let Some(method) = &self.method else {
            return Ok(());
        };
        method.check()?;
        let dim = self.network.feat_dim();
        if dim != method.memory_bank.feat_dim {
            return Err(Error::Method(format!(
                "memory_bank.feat_dim is {}, but the network's features have {dim}",
                method.memory_bank.feat_dim
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ensure_neg_draws_from_the_distribution_without_the_positive() {
        let weights = [4.0, 1.0, 2.0, 3.0];
        let table = AliasTable::from_weights(&weights).unwrap();
        let sampler = NegativeSampler::new(table, true, 9).unwrap();
        let mut counts = [0f64; 4];
        let negatives = sampler.of(3, 0, 0);
        (0..120_000).for_each(|k| counts[negatives.get(k) as usize] += 1.0);
        assert_eq!(counts[0], 0.0);
        let fit: f64 = (1..4)
            .map(|i| {
                let expected = 120_000.0 * weights[i] / 6.0;
                (counts[i] - expected).powi(2) / expected
            })
            .sum();
        assert!(fit < 18.4, "{fit}"); // 0.9999 quantile with 2 degrees of freedom
    }

    #[test]
    fn draws_are_addressed_not_sequential() {
        let sampler = NegativeSampler::new(AliasTable::uniform(1000).unwrap(), false, 1).unwrap();
        let a: Vec<u64> = (0..50).map(|k| sampler.of(0, 7, 0).get(k)).collect();
        let b: Vec<u64> = (0..50).rev().map(|k| sampler.of(0, 7, 0).get(k)).collect();
        assert!(a.iter().eq(b.iter().rev()));
        assert_ne!(
            a,
            (0..50)
                .map(|k| sampler.of(1, 7, 0).get(k))
                .collect::<Vec<_>>()
        );
        assert_ne!(
            a,
            (0..50)
                .map(|k| sampler.of(0, 8, 0).get(k))
                .collect::<Vec<_>>()
        );
        assert_ne!(
            a,
            (0..50)
                .map(|k| sampler.of(0, 7, 1).get(k))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_lone_row_can_not_be_ensured() {
        let table = AliasTable::uniform(1).unwrap();
        assert!(NegativeSampler::new(table.clone(), true, 0).is_err());
        assert!(NegativeSampler::new(table, false, 0).is_ok());
    }
}
