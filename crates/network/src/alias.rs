//! Drawing rows from a discrete distribution in constant time: the alias method (Walker 1977,
//! with Vose's construction, 1991), in integers.

use crate::Error;

/// A distribution over the rows 0..n.
#[derive(Clone, Debug)]
pub struct AliasTable {
    n: u64,
    /// `None` for the uniform distribution, which needs no columns.
    columns: Option<Vec<Column>>,
    /// The share of all rows but the heaviest.
    rest: f64,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    /// The column's own row is taken when 64 random bits are below this, else `alias`.
    threshold: u64,
    alias: u64,
}

impl AliasTable {
    /// Every row alike.
    ///
    /// # Errors
    /// If `n` is 0.
    pub fn uniform(n: u64) -> Result<Self, Error> {
        if n == 0 {
            return Err(Error::Method("no rows to draw negatives from".into()));
        }
        Ok(AliasTable {
            n,
            columns: None,
            rest: 1.0 - 1.0 / n as f64,
        })
    }

    /// Row i with probability `weights[i]` / Σ weights.
    ///
    /// # Errors
    /// If there is no weight, one is negative or not finite, or all are 0.
    pub fn from_weights(weights: &[f64]) -> Result<Self, Error> {
        if let Some(i) = weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
            return Err(Error::Method(format!(
                "weight {} of row {i} is not a number of at least 0",
                weights[i]
            )));
        }
        let total: f64 = weights.iter().sum();
        if total <= 0.0 || !total.is_finite() {
            return Err(Error::Method("all weights are 0".into()));
        }
        let n = weights.len();
        let mut scaled: Vec<f64> = weights.iter().map(|w| w / total * n as f64).collect();
        let heaviest = (0..n).fold(0, |a, b| if weights[b] > weights[a] { b } else { a });
        let mut columns = vec![
            Column {
                threshold: 0,
                alias: heaviest as u64,
            };
            n
        ];
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..n).partition(|&i| scaled[i] < 1.0);
        while let (Some(&s), Some(&l)) = (small.last(), large.last()) {
            small.pop();
            columns[s] = Column {
                threshold: (scaled[s] * 2f64.powi(64)) as u64,
                alias: l as u64,
            };
            scaled[l] -= 1.0 - scaled[s];
            if scaled[l] < 1.0 {
                large.pop();
                small.push(l);
            }
        }
        // What is left has a full column up to rounding. A row of weight 0 never is its own.
        for i in small.into_iter().chain(large) {
            if weights[i] > 0.0 {
                columns[i] = Column {
                    threshold: u64::MAX,
                    alias: i as u64,
                };
            }
        }
        Ok(AliasTable {
            n: n as u64,
            columns: Some(columns),
            rest: 1.0 - weights[heaviest] / total,
        })
    }

    /// Number of rows, drawable or not.
    pub fn rows(&self) -> u64 {
        self.n
    }

    /// Whether a row beside any given one comes in reasonable time: all rows but the heaviest have
    /// at least a millionth of the weight together.
    pub fn has_choice(&self) -> bool {
        self.rest >= 1e-6
    }

    /// The row that 128 random bits stand for.
    #[inline]
    pub fn draw(&self, bits: [u32; 4]) -> u64 {
        let place = u64::from(bits[0]) | u64::from(bits[1]) << 32;
        // The bias of the multiplication is below n / 2^64.
        let column = ((u128::from(place) * u128::from(self.n)) >> 64) as u64;
        match &self.columns {
            None => column,
            Some(columns) => {
                let coin = u64::from(bits[2]) | u64::from(bits[3]) << 32;
                let c = columns[column as usize];
                if coin < c.threshold { column } else { c.alias }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{Purpose, Stream};

    fn chi_square(table: &AliasTable, weights: &[f64], draws: u32) -> f64 {
        let stream = Stream::new(11, Purpose::Negatives, 0, 5, 0);
        let mut counts = vec![0f64; weights.len()];
        for k in 0..draws {
            counts[table.draw(stream.block(k, 0)) as usize] += 1.0;
        }
        let total: f64 = weights.iter().sum();
        weights
            .iter()
            .zip(&counts)
            .map(|(w, c)| {
                let expected = w / total * f64::from(draws);
                if expected == 0.0 {
                    assert_eq!(*c, 0.0, "a row of weight 0 was drawn");
                    0.0
                } else {
                    (c - expected).powi(2) / expected
                }
            })
            .sum()
    }

    #[test]
    fn draws_follow_the_weights() {
        let weights = [1.0, 0.0, 2.5, 0.001, 7.0, 3.0, 3.0, 0.5];
        let table = AliasTable::from_weights(&weights).unwrap();
        // The 0.9999 quantile of chi-square with 6 degrees of freedom is 27.9.
        let fit = chi_square(&table, &weights, 400_000);
        assert!(fit < 27.9, "{fit}");
        // The same test has to notice a bias of two per cent.
        let mut biased = weights;
        biased[4] *= 1.02;
        assert!(chi_square(&table, &biased, 400_000) > 27.9);
    }

    #[test]
    fn uniform_is_the_same_as_equal_weights() {
        let uniform = AliasTable::uniform(37).unwrap();
        let fit = chi_square(&uniform, &[1.0; 37], 200_000);
        assert!(fit < 82.0, "{fit}"); // 0.99999 quantile with 36 degrees of freedom
        let weighted = AliasTable::from_weights(&[2.0; 37]).unwrap();
        let stream = Stream::new(3, Purpose::Negatives, 0, 0, 0);
        for k in 0..1000 {
            assert_eq!(
                uniform.draw(stream.block(k, 0)),
                weighted.draw(stream.block(k, 0))
            );
        }
    }

    #[test]
    fn impossible_weights_are_refused() {
        assert!(AliasTable::uniform(0).is_err());
        assert!(AliasTable::from_weights(&[0.0, 0.0]).is_err());
        assert!(AliasTable::from_weights(&[1.0, f64::NAN]).is_err());
        assert!(AliasTable::from_weights(&[1.0, -1.0]).is_err());
        assert!(!AliasTable::from_weights(&[0.0, 1.0]).unwrap().has_choice());
        assert!(
            !AliasTable::from_weights(&[1e-30, 1.0])
                .unwrap()
                .has_choice()
        );
        assert!(AliasTable::from_weights(&[0.01, 1.0]).unwrap().has_choice());
    }
}
