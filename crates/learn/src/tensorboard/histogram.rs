//! Distributions of similarities.

use super::proto::Histogram;

/// Buckets from -1 to 1.
const BUCKETS: usize = 100;

/// The distribution of inner products of normalised features, which lie in -1 to 1 but for
/// rounding, in buckets of 0.02. Empty buckets at both ends are left out, since a reader takes the
/// smallest value for the first one's beginning. `None` without values.
pub fn of_similarities(values: &[f32]) -> Option<Histogram> {
    let mut counts = [0u64; BUCKETS];
    let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
    let (mut sum, mut sum_squares) = (0.0, 0.0);
    for value in values.iter().map(|&v| f64::from(v)) {
        min = min.min(value);
        max = max.max(value);
        sum += value;
        sum_squares += value * value;
        // Rounding may lead slightly outside; the conversion ends at 0 by itself.
        let bucket = ((value + 1.0) * (BUCKETS / 2) as f64) as usize;
        counts[bucket.min(BUCKETS - 1)] += 1;
    }
    let first = counts.iter().position(|&count| count > 0)?;
    let last = counts.iter().rposition(|&count| count > 0)?;
    let limit = |bucket: usize| (bucket + 1) as f64 / (BUCKETS / 2) as f64 - 1.0;
    Some(Histogram {
        min,
        max,
        num: values.len() as f64,
        sum,
        sum_squares,
        bucket_limit: (first..=last).map(limit).collect(),
        bucket: counts[first..=last].iter().map(|&n| n as f64).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_it_belongs_to() {
        assert_eq!(of_similarities(&[]), None);
        let values = [-1.0, -0.5, 0.01, 0.015, 0.5, 0.999, 1.0, 1.000_000_1];
        let found = of_similarities(&values).unwrap();
        assert_eq!((found.min, found.num), (-1.0, 8.0));
        assert_eq!(found.max, f64::from(1.000_000_1f32));
        assert_eq!(found.bucket.iter().sum::<f64>(), 8.0);
        assert_eq!(found.bucket.len(), found.bucket_limit.len());
        let of = |value: f64| {
            let at = found.bucket_limit.iter().position(|&limit| value < limit);
            found.bucket[at.unwrap()]
        };
        assert_eq!((of(-1.0), of(-0.9), of(-0.5)), (1.0, 0.0, 1.0));
        assert_eq!((of(0.01), of(0.5), of(0.999)), (2.0, 1.0, 3.0));

        let some = of_similarities(&[0.25, 0.35]).unwrap();
        assert_eq!(some.bucket, [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert!((some.bucket_limit[0] - 0.26).abs() < 1e-12);
        assert!((some.sum - 0.6).abs() < 1e-7 && (some.sum_squares - 0.185).abs() < 1e-7);
    }
}
