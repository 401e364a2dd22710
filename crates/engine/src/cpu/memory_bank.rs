//! The memory bank and what the method needs beside it: comparisons with it, and its update.

use npid_network::init::random_row;
use npid_network::method::{Head, Npid, RowStorage};

use super::bank;
use super::element::Element;
use super::heads::{self, Compared, Comparison, Drawn, Nce, Partials};
use super::memory::Buffer;
use super::rows::{Rows, View, ViewMut};
use super::simd::Isa;
use super::threads::Threads;
use crate::candidates::Candidates;
use crate::{BankHealth, Draws, Error};

/// The memory bank and what the method needs beside it.
pub struct Bank {
    pub rows: Rows,
    /// The NCE head's ln Z.
    pub log_z: f32,
    partials: Partials,
    /// Packed features of exact softmax.
    panels: Buffer,
    pub pending_rows: Vec<u64>,
    pub pending_features: Vec<f32>,
    /// Their own rows as they were.
    own: Vec<f32>,
    pub gradient: Vec<f32>,
    pub health: Option<BankHealth>,
}

impl Bank {
    pub fn new(
        method: &Npid,
        seed: u64,
        batch: usize,
        lanes: usize,
        threads: &Threads,
    ) -> Result<Self, Error> {
        let settings = method.memory_bank;
        let (n, dim) = (settings.length, settings.feat_dim);
        let rows = match settings.storage {
            RowStorage::Memory => {
                let mut rows = Rows::new(settings.dtype, n * dim)?;
                threads.enter(|| rows.fill(dim, |row| random_row(row, dim, seed)));
                rows
            }
            RowStorage::File => Rows::unfilled(settings.dtype, n * dim)?,
        };
        let (segments, panels) = match method.head {
            Head::Softmax { .. } => (
                heads::row_segments(n).count(),
                heads::panels_len(batch, dim, lanes),
            ),
            Head::Contrastive { .. } | Head::Nce { .. } => {
                (heads::negative_segments(method.neg_num).count(), 0)
            }
        };
        Ok(Bank {
            rows,
            log_z: f32::NEG_INFINITY,
            partials: Partials::new(segments, batch, dim),
            panels: Buffer::new(panels),
            pending_rows: Vec::with_capacity(batch),
            pending_features: Vec::with_capacity(batch * dim),
            own: vec![0.0; batch * dim],
            gradient: vec![0.0; batch * dim],
            health: None,
        })
    }

    /// Bytes taken.
    pub fn bytes(&self) -> usize {
        let floats = self.panels.len() + 2 * self.own.len() + self.gradient.len();
        self.rows.bytes() + self.partials.bytes() + floats * 4
    }

    /// Compares the pending features with the bank: their loss; its gradient is left in `gradient`.
    pub fn compare(
        &mut self,
        method: &Npid,
        isa: Isa,
        candidates: &Candidates,
        draws: Draws<'_>,
    ) -> f32 {
        let dim = method.memory_bank.feat_dim;
        let len = self.pending_features.len();
        let (rows, own) = (&self.pending_rows, &mut self.own[..len]);
        let view = self.rows.view();
        match view {
            View::F32(bank) => bank::gather(bank, dim, rows, own),
            View::Bf16(bank) => bank::gather(bank, dim, rows, own),
            View::F16(bank) => bank::gather(bank, dim, rows, own),
        }
        let asked = Asked {
            method,
            isa,
            draws,
            candidates,
            features: &self.pending_features,
            rows,
            own,
            partials: &mut self.partials,
            panels: &mut self.panels,
            log_z: &mut self.log_z,
            gradient: &mut self.gradient[..len],
        };
        let compared = match view {
            View::F32(bank) => asked.of(bank),
            View::Bf16(bank) => asked.of(bank),
            View::F16(bank) => asked.of(bank),
        };
        let dot = |(f, v): (&f32, &f32)| f64::from(*f) * f64::from(*v);
        let dots: f64 = self.pending_features.iter().zip(&*own).map(dot).sum();
        self.health = Some(BankHealth {
            alignment: (dots / rows.len() as f64) as f32,
            effective_negatives: compared.effective_negatives,
        });
        compared.loss
    }

    /// Commits the pending features, if there are any.
    pub fn update(&mut self, momentum: f32, dim: usize) -> bool {
        let (rows, features, own) = (&self.pending_rows, &self.pending_features, &self.own);
        let pending = !rows.is_empty();
        match self.rows.view_mut() {
            ViewMut::F32(bank) => bank::update(bank, dim, momentum, rows, features, own),
            ViewMut::Bf16(bank) => bank::update(bank, dim, momentum, rows, features, own),
            ViewMut::F16(bank) => bank::update(bank, dim, momentum, rows, features, own),
        }
        self.pending_rows.clear();
        pending
    }
}

/// A comparison with a bank of any type.
struct Asked<'a> {
    method: &'a Npid,
    isa: Isa,
    draws: Draws<'a>,
    candidates: &'a Candidates,
    features: &'a [f32],
    rows: &'a [u64],
    own: &'a [f32],
    partials: &'a mut Partials,
    panels: &'a mut Buffer,
    log_z: &'a mut f32,
    gradient: &'a mut [f32],
}

impl Asked<'_> {
    fn of<E: Element>(self, bank: &[E]) -> Compared {
        let comparison = Comparison {
            isa: self.isa,
            dim: self.method.memory_bank.feat_dim,
            temperature: self.method.head.temperature(),
            features: self.features,
            rows: self.rows,
            bank,
            own: self.own,
            excluded: self.candidates.any_excluded(),
        };
        let (partials, gradient) = (self.partials, self.gradient);
        let drawn = (self.candidates.sampler()).map(|sampler| Drawn {
            sampler,
            draws: self.draws,
            neg_num: self.method.neg_num,
        });
        let drawn = || drawn.expect("a head that samples has a sampler");
        match self.method.head {
            Head::Softmax { .. } => comparison.softmax(partials, self.panels, gradient),
            Head::Contrastive { .. } => comparison.contrastive(drawn(), partials, gradient),
            Head::Nce {
                z_momentum,
                proximal,
                ..
            } => {
                let nce = Nce {
                    z_momentum,
                    proximal,
                };
                comparison.nce(nce, drawn(), self.log_z, partials, gradient)
            }
        }
    }
}
