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
    /// Noise-contrastive estimation (Wu et al., equations 4 to 7; lemniscate's `NCEAverage` and
    /// `NCECriterion`). With x = s/τ - ln Z - ln(K/N), the positive's h = σ(x) should be 1 and
    /// each negative's 0: loss = -ln h(v_i) - Σ_k ln(1 - h(v_k)) + λ‖f - v_i‖².
    Nce {
        /// τ, above 0.
        temperature: f32,
        /// Weight of a batch's estimate of Z in its running mean, 0 to 1. Z is first estimated
        /// from the first batch: N times the mean of exp(s/τ) over its positives and negatives. At
        /// 0 it is kept from then on (paper, lemniscate); otherwise each batch, after its
        /// gradient, moves it: Z ← (1-r)·Z + r·Z_batch.
        z_momentum: f32,
        /// λ, at least 0: the weight of the proximal term (paper, equations 9 and 10), 0 for none.
        proximal: f32,
    },
}

impl Head {
    /// τ.
    pub fn temperature(&self) -> f32 {
        match *self {
            Head::Contrastive { temperature }
            | Head::Softmax { temperature }
            | Head::Nce { temperature, .. } => temperature,
        }
    }

    /// Whether it compares with sampled negatives rather than with every row.
    pub fn samples(&self) -> bool {
        !matches!(self, Head::Softmax { .. })
    }
}

/// How the numbers of the bank's rows are stored. Sums are taken in f32 whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowType {
    /// 32 bits: 24 significant ones.
    #[default]
    F32,
    /// 16 bits, 8 of them significant, with the range of f32: half the memory and half the bytes
    /// of a step.
    Bf16,
    /// IEEE 754's 16 bits: 11 significant ones, and a range that unit vectors don't leave.
    F16,
}

impl RowType {
    /// All of them, by name.
    pub const NAMED: [(&str, RowType); 3] = [
        ("f32", RowType::F32),
        ("bf16", RowType::Bf16),
        ("f16", RowType::F16),
    ];

    /// The one that is written so in a configuration.
    pub fn named(name: &str) -> Option<RowType> {
        let found = RowType::NAMED.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, dtype)| dtype)
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            RowType::F32 => 4,
            RowType::Bf16 | RowType::F16 => 2,
        }
    }

    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            RowType::F32 => "f32",
            RowType::Bf16 => "bf16",
            RowType::F16 => "f16",
        }
    }
}

/// Where the bank's rows are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowStorage {
    /// In the engine's memory.
    #[default]
    Memory,
    /// In a file that the engine is given to map, for more rows than memory holds. Until then they
    /// are zeros.
    File,
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
    /// How rows are stored; an update rounds once.
    pub dtype: RowType,
    /// Where they are kept; no result depends on it.
    pub storage: RowStorage,
}

/// The method: what the features are trained for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Npid {
    /// The loss.
    pub head: Head,
    /// The rows compared with.
    pub memory_bank: MemoryBank,
    /// K, negatives per image; unused by the exact softmax.
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
        if let Head::Nce {
            z_momentum,
            proximal,
            ..
        } = self.head
        {
            if !(0.0..=1.0).contains(&z_momentum) {
                return fail(format!(
                    "head.z_momentum is {z_momentum}; it must be 0 to 1"
                ));
            }
            if !proximal.is_finite() || proximal < 0.0 {
                return fail(format!(
                    "head.proximal is {proximal}; it must be at least 0"
                ));
            }
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
                return fail("neg_num is 0; this head needs at least 1 negative".into());
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

    /// The loss of features that know nothing, whose similarity to every row is the same: ln(K+1)
    /// (contrastive), ln N (softmax), ln(K+1) + K·ln(1+1/K) + 2λ (NCE: then Z is N·exp(s/τ), so
    /// that h is 1/(K+1) for all rows; and unit vectors at right angles are √2 apart).
    pub fn chance_loss(&self) -> f64 {
        self.chance_loss_among(self.memory_bank.length)
    }

    /// The same where only `rows` of the N rows are not excluded, 0 for none.
    pub fn chance_loss_among(&self, rows: usize) -> f64 {
        match self.head {
            Head::Contrastive { .. } => ((self.neg_num + 1) as f64).ln(),
            Head::Softmax { .. } => (rows.max(1) as f64).ln(),
            Head::Nce { proximal, .. } => {
                let k = self.neg_num as f64;
                (k + 1.0).ln() + k * (1.0 / k).ln_1p() + 2.0 * f64::from(proximal)
            }
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
        self.accept(k, self.sampler.table.draw(self.stream.block(k, 0)))
    }

    /// Negatives `first` to `first` + N - 1; those beyond K are of no use but no harm either.
    #[inline(always)]
    pub fn many<const N: usize>(&self, first: u32) -> [u64; N] {
        let bits = self.stream.blocks::<N>(first, 0);
        let mut rows = [0; N];
        for (i, row) in rows.iter_mut().enumerate() {
            let drawn = (self.sampler.table).draw([bits[0][i], bits[1][i], bits[2][i], bits[3][i]]);
            *row = self.accept(first.wrapping_add(i as u32), drawn);
        }
        rows
    }

    /// The first draw `row` of negative `k`, or one that takes its place.
    #[inline(always)]
    fn accept(&self, k: u32, row: u64) -> u64 {
        if row != self.positive || !self.sampler.ensure_neg {
            return row;
        }
        self.again(k)
    }

    /// Draws once more, and until it isn't the positive.
    #[cold]
    fn again(&self, k: u32) -> u64 {
        let mut attempt = 1;
        loop {
            let row = self.sampler.table.draw(self.stream.block(k, attempt));
            if row != self.positive {
                return row;
            }
            attempt += 1;
        }
    }
}

/// Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, algorithm 1; MMSelfSup's `LARS`).
///
/// A parameter's learning rate is multiplied by η·‖w‖ / (‖g‖ + wd·‖w‖ + ε), g before the decay is
/// added; by 1 if either norm is 0 or the parameter is excluded. Unlike plain SGD's, the momentum
/// then holds steps rather than gradients: u ← μ·u + lr·(g + wd·w), w ← w - u.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lars {
    /// η, above 0.
    pub eta: f32,
    /// ε.
    pub eps: f32,
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
    /// Layer-wise learning rates.
    pub lars: Option<Lars>,
}

/// All an engine needs to know to compile its programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The network.
    pub network: Network,
    /// The method; without it only cross entropy and given gradients can be trained.
    pub method: Option<Npid>,
    /// What row is drawn how often as a negative: N numbers of at least 0; `None`: all alike. They
    /// say where negatives come from and nothing else: no head corrects for them.
    pub neg_weights: Option<std::sync::Arc<[f64]>>,
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
        if let Some(weights) = &self.neg_weights
            && weights.len() != method.memory_bank.length
        {
            return Err(Error::Method(format!(
                "{} weights of negatives for {} images",
                weights.len(),
                method.memory_bank.length
            )));
        }
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

    /// The distance of counts from what the weights without row `positive` ask for.
    fn chi_square(counts: &[f64], weights: &[f64], positive: usize) -> f64 {
        let draws: f64 = counts.iter().sum();
        let total: f64 = weights.iter().sum::<f64>() - weights[positive];
        (0..weights.len())
            .filter(|&i| i != positive)
            .map(|i| {
                let expected = draws * weights[i] / total;
                (counts[i] - expected).powi(2) / expected
            })
            .sum()
    }

    /// The draws of many images together, as training makes them, and what the same test says of
    /// two ways of getting it wrong.
    #[test]
    fn a_bias_of_weighted_draws_or_of_ensure_neg_is_noticed() {
        let weights: Vec<f64> = (0..12).map(|i| 0.5 + (i % 5) as f64).collect();
        let table = AliasTable::from_weights(&weights).unwrap();
        let kept = NegativeSampler::new(table.clone(), false, 4).unwrap();
        let sampler = NegativeSampler::new(table, true, 4).unwrap();
        // Row 4 is the heaviest, 4.5 of 28.5.
        let (positive, k) = (4u64, 2_000u32);
        let count = |row: &dyn Fn(u32, u32) -> u64| {
            let mut counts = vec![0f64; 12];
            (0..100).for_each(|epoch| (0..k).for_each(|i| counts[row(epoch, i) as usize] += 1.0));
            chi_square(&counts, &weights, positive as usize)
        };
        // 0.9999 quantile with 10 degrees of freedom.
        let fit = count(&|epoch, i| sampler.of(epoch, positive, 0).get(i));
        assert!(fit < 35.6, "{fit}");
        // A hit that is passed to the next row instead of being drawn again.
        let next = count(&|epoch, i| match kept.of(epoch, positive, 0).get(i) {
            row if row == positive => positive + 1,
            row => row,
        });
        assert!(next > 1_000.0, "{next}");
        // A hit that is replaced by a uniform draw, though draws are weighted.
        let uniform = NegativeSampler::new(AliasTable::uniform(12).unwrap(), true, 5).unwrap();
        let mixed = count(&|epoch, i| match kept.of(epoch, positive, 0).get(i) {
            row if row == positive => uniform.of(epoch, positive, 0).get(i),
            row => row,
        });
        assert!(mixed > 100.0, "{mixed}");
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
    fn many_negatives_are_the_negatives() {
        for ensure_neg in [false, true] {
            let table = AliasTable::from_weights(&[3.0, 1.0, 2.0]).unwrap();
            let sampler = NegativeSampler::new(table, ensure_neg, 8).unwrap();
            let negatives = sampler.of(2, 0, 1);
            for first in [0, 5, 1000] {
                let many = negatives.many::<16>(first);
                assert_eq!(
                    many,
                    std::array::from_fn(|i| negatives.get(first + i as u32))
                );
            }
        }
    }

    #[test]
    fn a_lone_row_can_not_be_ensured() {
        let table = AliasTable::uniform(1).unwrap();
        assert!(NegativeSampler::new(table.clone(), true, 0).is_err());
        assert!(NegativeSampler::new(table, false, 0).is_ok());
    }
}
