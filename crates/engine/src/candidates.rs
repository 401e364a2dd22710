//! Which rows of the bank take part: shared by the engines, so that they agree on it.

use std::sync::Arc;

use npid_network::alias::AliasTable;
use npid_network::method::{Description, NegativeSampler, Npid};

use crate::{Error, Objective};

/// The rows that may be drawn and counted, and the sampler that draws them.
pub(crate) struct Candidates {
    method: Option<Npid>,
    weights: Option<Arc<[f64]>>,
    seed: u64,
    excluded: Vec<bool>,
    any_excluded: bool,
    /// None for heads that don't sample.
    sampler: Option<NegativeSampler>,
}

impl Candidates {
    /// All rows of the description's bank; none without a method.
    pub fn new(description: &Description) -> Result<Self, Error> {
        let method = description.method;
        let rows = method.map_or(0, |m| m.memory_bank.length);
        let mut all = Candidates {
            method,
            weights: description.neg_weights.clone(),
            seed: description.seed,
            excluded: vec![false; rows],
            any_excluded: false,
            sampler: None,
        };
        all.sampler = all.sampler_without(&all.excluded)?;
        Ok(all)
    }

    fn sampler_without(&self, excluded: &[bool]) -> Result<Option<NegativeSampler>, Error> {
        let Some(method) = self.method.filter(|m| m.head.samples()) else {
            return Ok(None);
        };
        let table = if self.weights.is_some() || excluded.contains(&true) {
            let given = self.weights.as_deref();
            let weight =
                |(i, &e): (usize, &bool)| if e { 0.0 } else { given.map_or(1.0, |w| w[i]) };
            AliasTable::from_weights(
                &excluded
                    .iter()
                    .enumerate()
                    .map(weight)
                    .collect::<Vec<f64>>(),
            )?
        } else {
            AliasTable::uniform(excluded.len() as u64)?
        };
        Ok(Some(NegativeSampler::new(
            table,
            method.ensure_neg,
            self.seed,
        )?))
    }

    /// See [`crate::Engine::exclude_rows`]; nothing has changed after an error.
    pub fn exclude(&mut self, rows: &[u64]) -> Result<(), Error> {
        let mut excluded = self.excluded.clone();
        for &row in rows {
            let n = excluded.len();
            let Some(flag) = excluded.get_mut(row as usize) else {
                return Err(Error::Argument(format!("row {row} of a bank of {n}")));
            };
            *flag = true;
        }
        if !rows.is_empty() && !excluded.contains(&false) {
            return Err(Error::Argument("no row would be left in the bank".into()));
        }
        if excluded != self.excluded {
            self.sampler = self.sampler_without(&excluded)?;
            self.excluded = excluded;
            self.any_excluded = true;
        }
        Ok(())
    }

    /// Refuses an objective that trains an excluded row; its rows are known to be in the bank.
    pub fn check(&self, objective: Objective<'_>) -> Result<(), Error> {
        if let Objective::Npid { rows, .. } = objective
            && let Some(bad) = rows.iter().find(|&&r| self.excluded[r as usize])
        {
            return Err(Error::Argument(format!("row {bad} was excluded")));
        }
        Ok(())
    }

    /// For each row, whether it takes no part.
    pub fn excluded(&self) -> &[bool] {
        &self.excluded
    }

    /// The same, if any does.
    pub fn any_excluded(&self) -> Option<&[bool]> {
        self.any_excluded.then_some(&self.excluded[..])
    }

    /// What draws negatives, for heads that sample.
    pub fn sampler(&self) -> Option<&NegativeSampler> {
        self.sampler.as_ref()
    }
}
