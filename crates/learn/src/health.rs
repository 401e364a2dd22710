//! The health of the memory bank: five figures of an epoch that say whether its rows are worth
//! comparing with.

use std::collections::{BTreeMap, BTreeSet};

use npid_network::philox::{Purpose, Stream};
use serde::{Deserialize, Serialize};

use crate::checkpoint::LossSum;

/// Rows that are looked at; all where there are no more.
pub(crate) const SAMPLE_ROWS: usize = 1024;

/// What an epoch's line says of the bank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct BankReport {
    /// Mean over the sampled rows of the optimiser steps since their update.
    pub bank_staleness: f64,
    /// Mean of f·v over the epoch's images, v the own row before its update: 1 where the network
    /// finds the same feature again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bank_alignment: Option<f64>,
    /// ln of the mean of exp(-2‖v - w‖²) over pairs of the sampled rows (Wang and Isola 2020,
    /// section 4.1.2, with t = 2): 0 where all are the same, about -3.94 where they are spread evenly
    /// over a sphere of 128 dimensions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bank_uniformity: Option<f64>,
    /// Mean over the epoch's images of (Σ w)² / Σ w² over their negatives, w a negative's weight in
    /// the gradient: how many of them count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bank_effective_negatives: Option<f64>,
    /// Mean of |‖v‖ - 1| over the sampled rows.
    pub bank_norm_drift: f64,
}

/// What is kept between steps, and in checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The step of each sampled row's last update; rows that aren't here had theirs at `since`.
    updated: BTreeMap<u64, u64>,
    /// When the bank got its start.
    since: u64,
    alignment: LossSum,
    effective_negatives: LossSum,
}

impl Health {
    /// Of a bank that has just got its rows, at optimiser step `step`.
    pub(crate) fn new(step: u64) -> Self {
        Health {
            since: step,
            ..Health::default()
        }
    }

    /// An epoch begins.
    pub(crate) fn begin_epoch(&mut self) {
        self.alignment = LossSum::default();
        self.effective_negatives = LossSum::default();
    }

    /// `rows` were updated in the optimiser step `step` (from 1); `sample` are the rows that are
    /// looked at.
    pub(crate) fn batch(
        &mut self,
        rows: &[u64],
        step: u64,
        found: Option<npid_engine::BankHealth>,
        sample: &BTreeSet<u64>,
    ) {
        for row in rows.iter().filter(|row| sample.contains(row)) {
            self.updated.insert(*row, step);
        }
        let Some(found) = found else {
            return;
        };
        self.alignment.add(f64::from(found.alignment));
        // NaN where a batch's negatives have no weight.
        if found.effective_negatives.is_finite() {
            let effective = f64::from(found.effective_negatives);
            self.effective_negatives.add(effective);
        }
    }

    /// The figures after optimiser step `step`; `sampled` are pairs of a row's number and its D
    /// numbers.
    pub(crate) fn report(&self, step: u64, sampled: &[(u64, Vec<f32>)]) -> BankReport {
        let updated = |row: &u64| *self.updated.get(row).unwrap_or(&self.since);
        let ages = sampled.iter().map(|(row, _)| step - updated(row).min(step));
        let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let drifts = sampled.iter().map(|(_, v)| (norm(v) - 1.0).abs());
        let n = sampled.len().max(1) as f64;
        let mean = |sum: &LossSum| (sum.count > 0).then(|| sum.mean());
        BankReport {
            bank_staleness: ages.sum::<u64>() as f64 / n,
            bank_alignment: mean(&self.alignment),
            bank_uniformity: uniformity(sampled),
            bank_effective_negatives: mean(&self.effective_negatives),
            bank_norm_drift: drifts.sum::<f64>() / n,
        }
    }
}

/// The rows that are looked at of a bank of `rows`.
pub(crate) fn sample(rows: usize, seed: u64) -> BTreeSet<u64> {
    if rows <= SAMPLE_ROWS {
        return (0..rows as u64).collect();
    }
    // Items 0 to 2 are the queries and voters of the kNN figure and the images of `spread`.
    let mut stream = Stream::new(seed, Purpose::Split, 0, 3, 0);
    let mut sample = BTreeSet::new();
    while sample.len() < SAMPLE_ROWS {
        sample.insert(stream.below(rows as u64));
    }
    sample
}

/// ln of the mean of exp(-2‖v - w‖²) over pairs; `None` without a pair.
fn uniformity(sampled: &[(u64, Vec<f32>)]) -> Option<f64> {
    let (mut sum, mut pairs) = (0f64, 0u64);
    for (i, (_, v)) in sampled.iter().enumerate() {
        for (_, w) in &sampled[..i] {
            let square: f32 = v.iter().zip(w).map(|(a, b)| (a - b) * (a - b)).sum();
            sum += f64::from(-2.0 * square).exp();
            pairs += 1;
        }
    }
    (pairs > 0).then(|| (sum / pairs as f64).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_engine::BankHealth;

    #[test]
    fn the_figures_are_what_they_say() {
        let sample = sample(3, 0);
        let mut health = Health::new(10);
        let found = |alignment, effective_negatives| {
            Some(BankHealth {
                alignment,
                effective_negatives,
            })
        };
        health.batch(&[0, 2], 11, found(0.25, 8.0), &sample);
        health.batch(&[2], 12, found(0.75, f32::NAN), &sample);
        let rows = [
            (0, vec![1.0, 0.0]),
            (1, vec![0.0, 2.0]),
            (2, vec![1.0, 0.0]),
        ];
        let report = health.report(14, &rows);
        // 3, 4 and 2 steps ago.
        assert_eq!(report.bank_staleness, 3.0);
        assert_eq!(report.bank_alignment, Some(0.5));
        assert_eq!(report.bank_effective_negatives, Some(8.0));
        assert!((report.bank_norm_drift - 1.0 / 3.0).abs() < 1e-12);
        // Squared distances 5, 0 and 5.
        let want = ((2.0 * (-10f64).exp() + 1.0) / 3.0).ln();
        assert!((report.bank_uniformity.unwrap() - want).abs() < 1e-9);

        health.begin_epoch();
        let report = health.report(14, &rows);
        assert_eq!(report.bank_alignment, None);
        assert_eq!(report.bank_staleness, 3.0);
    }

    #[test]
    fn rows_are_sampled_by_the_seed() {
        let (a, b) = (sample(50_000, 1), sample(50_000, 2));
        assert_eq!((a.len(), b.len()), (SAMPLE_ROWS, SAMPLE_ROWS));
        assert_ne!(a, b);
        assert_eq!(a, sample(50_000, 1));
        assert_eq!(sample(1, 1).len(), 1);
    }

    #[test]
    fn even_points_on_a_sphere_have_the_uniformity_that_is_said() {
        let row = |i: u64| (i, npid_network::init::random_row(i, 128, 0));
        let rows: Vec<_> = (0..400).map(row).collect();
        let found = uniformity(&rows).unwrap();
        assert!((found + 3.94).abs() < 0.02, "{found}");
        assert_eq!(uniformity(&rows[..1]), None);
    }
}
