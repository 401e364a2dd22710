//! A picture of what the network sees: training pictures beside their augmented views.

use npid_data::augment::{EvalView, Pipeline, Workspace};
use npid_data::source::Source;
use npid_network::philox::{Purpose, Stream};

/// Training pictures shown, one in a row of the grid.
pub const PICTURES: usize = 6;

/// Augmented views of each, those of the first epochs.
const VIEWS: u32 = 5;

/// Most pixels of a view's side; of larger ones every second (third, ...) pixel is shown.
const SIDE: usize = 256;

/// Pixels between views.
const GAP: usize = 2;

/// A grid of views, 8-bit RGB.
pub struct Grid {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub rgb: Vec<u8>,
}

/// The pictures of `rows`, one below the other: the evaluation view, then the augmented views that
/// the first epochs of a run with `seed` train on. Pictures that can't be read are left out;
/// `None` if none is left.
pub fn grid(source: &dyn Source, rows: &[u64], pipeline: &Pipeline, seed: u64) -> Option<Grid> {
    let (side, other) = pipeline.output_size();
    if side != other {
        return None; // a run's pictures are square: `data.size`
    }
    let stride = side.div_ceil(SIDE);
    let shown = side.div_ceil(stride);
    let width = (VIEWS as usize + 1) * (shown + GAP) + GAP;
    let mut rgb = Vec::new();
    let mut view = vec![0; pipeline.output_bytes()];
    let mut workspace = Workspace::default();
    let mut drawn = Vec::new();
    for &row in rows {
        let Ok(picture) = source.picture(row as usize) else {
            continue;
        };
        let line = rgb.len();
        rgb.resize(line + (shown + GAP) * width * 3, u8::MAX);
        for column in 0..=VIEWS {
            if column == 0 {
                EvalView { size: side }.apply(&picture, &mut workspace, &mut view);
            } else {
                // The draws that the loader makes for this picture in epoch `column`.
                let mut stream = Stream::new(seed, Purpose::Augment, column - 1, row, 0);
                pipeline.draw(&mut stream, picture.width, picture.height, &mut drawn);
                pipeline.apply(&picture, &drawn, &mut workspace, &mut view);
            }
            let left = GAP + column as usize * (shown + GAP);
            for y in 0..shown {
                let from = &view[y * stride * side * 3..][..side * 3];
                let into = line + ((GAP + y) * width + left) * 3;
                for (x, pixel) in from.chunks_exact(3).step_by(stride).enumerate() {
                    rgb[into + x * 3..][..3].copy_from_slice(pixel);
                }
            }
        }
    }
    if rgb.is_empty() {
        return None;
    }
    rgb.resize(rgb.len() + GAP * width * 3, u8::MAX);
    Some(Grid {
        width,
        height: rgb.len() / (width * 3),
        rgb,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use npid_data::loader::{Epoch, LoadOptions, Loader};
    use npid_data::patterns::{Patterns, Split};

    use super::*;

    #[test]
    fn the_grid_holds_the_views_that_the_loader_gives() {
        let source: Arc<dyn Source> = Arc::new(Patterns::new(Split::Train, 5, 24, 0));
        let pipeline = Arc::new(
            serde_json::from_str::<Pipeline>(
                r#"[{"type": "RandomResizedCrop", "size": 16},
                    {"type": "RandomHorizontalFlip"}]"#,
            )
            .unwrap(),
        );
        let grid = grid(source.as_ref(), &[3, 1], &pipeline, 7).unwrap();
        assert_eq!((grid.width, grid.height), (6 * 18 + 2, 2 * 18 + 2));
        let cell = |line: usize, column: usize| -> Vec<u8> {
            (0..16)
                .flat_map(|y| {
                    let at = (2 + line * 18 + y) * grid.width + 2 + column * 18;
                    grid.rgb[at * 3..][..16 * 3].to_vec()
                })
                .collect()
        };
        for epoch in 0..5 {
            let options = LoadOptions {
                batch_size: 5,
                threads: 1,
                ahead: 1,
                hashes: false,
            };
            let epoch = Epoch {
                seed: 7,
                epoch,
                ..Epoch::default()
            };
            let mut loader = Loader::new(
                source.clone(),
                pipeline.clone(),
                options,
                epoch,
                &Default::default(),
            );
            let batch = loader.next().unwrap().unwrap();
            for (line, row) in [3, 1].into_iter().enumerate() {
                let at = batch.rows.iter().position(|&r| r == row).unwrap();
                let bytes = pipeline.output_bytes();
                let expected = &batch.pixels[at * bytes..][..bytes];
                assert!(cell(line, epoch.epoch as usize + 1) == expected);
            }
        }
        // Between them it is white.
        assert!(grid.rgb[..grid.width * 3 * 2].iter().all(|&v| v == 255));
    }

    #[test]
    fn large_views_are_thinned_out() {
        let source = Patterns::new(Split::Train, 1, 32, 0);
        let pipeline: Pipeline =
            serde_json::from_str(r#"[{"type": "RandomResizedCrop", "size": 600}]"#).unwrap();
        let grid = grid(&source, &[0], &pipeline, 0).unwrap();
        assert_eq!((grid.width, grid.height), (6 * 202 + 2, 204));
    }
}
