//! The weighted kNN vote and its accuracy.

use crate::{Error, Options, TopK};

/// How well the neighbours' vote names the classes of the queries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnnReport {
    /// Share of the queries whose class got the most votes, in per cent.
    pub top1: f64,
    /// Share of the queries whose class is among the five with the most votes, in per cent.
    pub top5: f64,
    /// Neighbours that voted on each query: as asked for, or all rows where there are fewer.
    pub k: usize,
    /// Temperature of the vote.
    pub tau: f32,
    /// Number of labelled queries.
    pub queries: usize,
    /// Number of labelled rows.
    pub rows: usize,
}

/// The votes for each class by one query's neighbours, up to a factor that all classes share.
///
/// Wu et al. 2018, section 3.4: class c gets the sum of exp(s_j / tau) over those of the k nearest
/// rows j that belong to it. The largest similarity is subtracted first, so that nothing
/// overflows: the nearest row's vote is 1.
///
/// `labels` and `similarities` are the neighbours', in any order; each label is below `classes`.
///
/// # Panics
/// If a label isn't.
pub fn vote(labels: &[u32], similarities: &[f32], classes: usize, tau: f32) -> Vec<f64> {
    let largest = similarities
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    let mut votes = vec![0.0; classes];
    for (&label, &similarity) in labels.iter().zip(similarities) {
        // Both infinite: the difference would be NaN, but they are equally near.
        let below = if similarity == largest {
            0.0
        } else {
            f64::from(similarity) - f64::from(largest)
        };
        votes[label as usize] += (below / f64::from(tau)).exp();
    }
    votes
}

/// How many classes come before `label` when they are ordered by votes, the lower class first
/// where they are equal.
fn place(votes: &[f64], label: usize) -> usize {
    let before = |&(class, &votes_of_class): &(usize, &f64)| {
        votes_of_class > votes[label] || (votes_of_class == votes[label] && class < label)
    };
    votes.iter().enumerate().filter(before).count()
}

/// Classifies each query by the weighted vote of its `k` nearest rows ([`vote`]) and compares
/// with its label.
///
/// `queries` is Q x `dim` with Q `query_labels`, `rows` N x `dim` with N `row_labels`, both
/// row-major. Queries and rows without a label are left out. Equal votes go to the lower class, of
/// those without a vote as well; with up to five classes, `top5` is therefore 100. `threads` 0 is
/// one for each core; the report is the same for every number of threads.
///
/// # Errors
/// If a size or a label doesn't fit, `tau` isn't above 0, or one side has no label at all.
pub fn knn_accuracy(
    queries: &[f32],
    query_labels: &[Option<u32>],
    rows: &[f32],
    row_labels: &[Option<u32>],
    classes: usize,
    dim: usize,
    k: usize,
    tau: f32,
    threads: usize,
) -> Result<KnnReport, Error> {
    if !(tau > 0.0 && tau.is_finite()) {
        return Err(Error::Temperature { tau });
    }
    if dim == 0 {
        return Err(Error::Zero {
            what: "the dimension",
        });
    }
    let labelled_queries = check_labels("query", query_labels, queries.len(), dim, classes)?;
    let labelled_rows = check_labels("row", row_labels, rows.len(), dim, classes)?;
    let (queries, labels) = labelled_only(queries, query_labels, dim);
    let excluded: Vec<bool> = row_labels.iter().map(Option::is_none).collect();
    let options = Options {
        excluded: (labelled_rows < row_labels.len()).then_some(&excluded[..]),
        own_rows: None,
        threads,
    };
    let found = TopK::search(&queries, rows, dim, k, &options)?;
    let (mut first, mut among_five) = (0usize, 0usize);
    let mut neighbours = Vec::with_capacity(found.k);
    for (query, &label) in labels.iter().enumerate() {
        let (found_rows, similarities) = found.of(query);
        neighbours.clear();
        // Rows without a label were excluded, so none is lost here.
        neighbours.extend(
            found_rows
                .iter()
                .filter_map(|&row| row_labels[row as usize]),
        );
        let place = place(
            &vote(&neighbours, similarities, classes, tau),
            label as usize,
        );
        first += usize::from(place == 0);
        among_five += usize::from(place < 5);
    }
    let per_cent = |count: usize| 100.0 * count as f64 / labelled_queries as f64;
    Ok(KnnReport {
        top1: per_cent(first),
        top5: per_cent(among_five),
        k: found.k,
        tau,
        queries: labelled_queries,
        rows: labelled_rows,
    })
}

/// The number of labels present, after checking that there is one entry for each vector and that
/// each names a class.
fn check_labels(
    what: &'static str,
    labels: &[Option<u32>],
    values: usize,
    dim: usize,
    classes: usize,
) -> Result<usize, Error> {
    let plural = if what == "query" { "queries" } else { "rows" };
    if labels.len() * dim != values {
        return Err(Error::Length {
            what: plural,
            found: values,
            expected: labels.len() * dim,
        });
    }
    for (index, label) in labels.iter().enumerate() {
        if let Some(label) = label.filter(|&label| label as usize >= classes) {
            return Err(Error::Label {
                what,
                index,
                label,
                classes,
            });
        }
    }
    match labels.iter().flatten().count() {
        0 => Err(Error::NothingLabelled { what: plural }),
        count => Ok(count),
    }
}

/// The vectors that have a label, and their labels; copied only where some have none.
fn labelled_only<'a>(
    vectors: &'a [f32],
    labels: &[Option<u32>],
    dim: usize,
) -> (std::borrow::Cow<'a, [f32]>, Vec<u32>) {
    let present: Vec<u32> = labels.iter().flatten().copied().collect();
    if present.len() == labels.len() {
        return (vectors.into(), present);
    }
    let kept = vectors.chunks(dim).zip(labels);
    let kept = kept.filter(|(_, label)| label.is_some());
    let vectors: Vec<f32> = kept.flat_map(|(vector, _)| vector).copied().collect();
    (vectors.into(), present)
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_network::philox::{Purpose, Stream};

    /// Weights e^0, e^-1 and e^-2 at tau 0.5.
    #[test]
    fn votes_by_hand() {
        let votes = vote(&[2, 0, 2, 1], &[0.5, 1.0, 0.0, 0.5], 4, 0.5);
        let e = std::f64::consts::E;
        let expected = [1.0, 1.0 / e, 1.0 / e + 1.0 / (e * e), 0.0];
        for (found, expected) in votes.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{votes:?}");
        }
        let places: Vec<usize> = (0..4).map(|class| place(&votes, class)).collect();
        assert_eq!(places, [0, 2, 1, 3]);
    }

    /// exp(1 / 0.001) alone would be infinite; two far rows must not outvote a near one there, but
    /// do at a high temperature.
    #[test]
    fn a_small_temperature_neither_overflows_nor_ties() {
        let (labels, similarities) = ([1, 0, 0], [1.0, 0.9, 0.9]);
        let cold = vote(&labels, &similarities, 2, 0.001);
        assert!(cold[1] == 1.0 && cold[0] < 1e-40, "{cold:?}");
        assert_eq!(place(&cold, 1), 0);
        assert_eq!(place(&vote(&labels, &similarities, 2, 1.0), 1), 1);
    }

    #[test]
    fn equal_votes_go_to_the_lower_class() {
        let votes = vote(&[3, 1], &[0.25, 0.25], 4, 0.1);
        assert_eq!(votes[1], votes[3]);
        let places: Vec<usize> = (0..4).map(|class| place(&votes, class)).collect();
        assert_eq!(places, [2, 0, 3, 1]);
    }

    /// Six classes on a line of directions; each query sits on its class.
    #[test]
    fn accuracy_by_hand() {
        let angle = |degrees: f64| {
            let radians = degrees.to_radians();
            [radians.cos() as f32, radians.sin() as f32]
        };
        let rows: Vec<f32> = (0..6).flat_map(|c| angle(30.0 * f64::from(c))).collect();
        let row_labels: Vec<_> = (0..6).map(Some).collect();
        // Right; nearest to 5 but labelled 4; nearest to 0 and labelled 5, which comes last; none.
        let queries: Vec<f32> = [31.0, 149.0, 0.0, 90.0]
            .into_iter()
            .flat_map(angle)
            .collect();
        let query_labels = [Some(1), Some(4), Some(5), None];
        let report = knn_accuracy(
            &queries,
            &query_labels,
            &rows,
            &row_labels,
            6,
            2,
            200,
            0.1,
            1,
        );
        let report = report.unwrap();
        assert_eq!((report.k, report.queries, report.rows), (6, 3, 6));
        assert!((report.top1 - 100.0 / 3.0).abs() < 1e-9, "{report:?}");
        assert!((report.top5 - 200.0 / 3.0).abs() < 1e-9, "{report:?}");
        // Without class 5's row its query falls to its neighbour, and one row fewer votes.
        let mut without = row_labels.clone();
        without[5] = None;
        let report = knn_accuracy(&queries, &query_labels, &rows, &without, 6, 2, 200, 0.1, 1);
        let report = report.unwrap();
        assert_eq!((report.k, report.rows), (5, 5));
        assert!((report.top1 - 200.0 / 3.0).abs() < 1e-9, "{report:?}");
    }

    /// The report against one computed here from every similarity, for 1, 2 and 3 threads.
    #[test]
    fn accuracy_against_a_plain_loop() {
        let (dim, classes, n, count, k, tau) = (17, 7, 403, 205, 30, 0.07);
        let mut s = Stream::new(3, Purpose::Bench, 0, 0, 0);
        let centres: Vec<f64> = (0..classes * dim).map(|_| s.normal()).collect();
        let mut vectors = |count: usize| -> (Vec<f32>, Vec<Option<u32>>) {
            let (mut all, mut labels) = (Vec::new(), Vec::new());
            for i in 0..count {
                let v: Vec<f64> = (0..dim)
                    .map(|d| centres[i % classes * dim + d] + 1.6 * s.normal())
                    .collect();
                let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
                all.extend(v.iter().map(|x| (x / norm) as f32));
                labels.push(Some((i % classes) as u32).filter(|_| s.below(10) > 0));
            }
            (all, labels)
        };
        let ((rows, row_labels), (queries, query_labels)) = (vectors(n), vectors(count));
        let (mut right, mut asked) = (0, 0);
        for (query, label) in queries.chunks(dim).zip(&query_labels) {
            let Some(label) = label else { continue };
            let mut near: Vec<(f64, u32)> = rows
                .chunks(dim)
                .zip(&row_labels)
                .filter_map(|(row, label)| {
                    let dot = query
                        .iter()
                        .zip(row)
                        .map(|(&a, &b)| f64::from(a) * f64::from(b));
                    label.map(|label| (dot.sum(), label))
                })
                .collect();
            near.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut votes = vec![0.0; classes];
            for &(similarity, label) in &near[..k] {
                votes[label as usize] += (similarity / f64::from(tau)).exp();
            }
            let best = (0..classes).max_by(|&a, &b| votes[a].total_cmp(&votes[b]));
            right += usize::from(best == Some(*label as usize));
            asked += 1;
        }
        let expected = 100.0 * right as f64 / asked as f64;
        assert!(
            (30.0..95.0).contains(&expected),
            "a case of no use: {expected}"
        );
        let report = |threads| {
            knn_accuracy(
                &queries,
                &query_labels,
                &rows,
                &row_labels,
                classes,
                dim,
                k,
                tau,
                threads,
            )
            .unwrap()
        };
        let one = report(1);
        assert_eq!((one.top1, one.queries), (expected, asked));
        assert!(one.top5 > one.top1);
        assert_eq!(one, report(2));
        assert_eq!(one, report(3));
    }

    #[test]
    fn what_cannot_be_voted_on() {
        let fails = |query_label, row_label, tau| {
            knn_accuracy(
                &[1.0],
                &[query_label],
                &[1.0],
                &[row_label],
                2,
                1,
                5,
                tau,
                1,
            )
            .unwrap_err()
            .to_string()
        };
        assert_eq!(
            fails(Some(0), Some(0), 0.0),
            "the vote's temperature is 0; give a number above 0"
        );
        assert_eq!(
            fails(None, Some(0), 0.1),
            "no labelled queries; kNN accuracy needs labels on both sides"
        );
        assert_eq!(
            fails(Some(0), None, 0.1),
            "no labelled rows; kNN accuracy needs labels on both sides"
        );
        assert_eq!(
            fails(Some(0), Some(2), 0.1),
            "label 2 of row 0 is beyond the 2 classes"
        );
    }
}
