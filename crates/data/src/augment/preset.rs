//! Published pipelines by name.

use super::{
    ColorJitter, Extent, JitterRange, Normalize, RandomGrayscale, RandomHorizontalFlip,
    RandomResizedCrop, ToTensor, Transform,
};

/// Names that [`preset`] knows.
pub const PRESETS: [&str; 3] = ["imagenet-npid", "cifar-npid", "cifar-npid-flip"];

/// The pipeline of this name.
///
/// - `imagenet-npid`: MMSelfSup 0.x, `configs/selfsup/_base_/datasets/imagenet_npid.py`.
/// - `cifar-npid`: `cifar.py` of the authors' repository (zhirongw/lemniscate.pytorch). The flip
///   is commented out there, so there is none here.
/// - `cifar-npid-flip`: the same with the flip.
pub fn preset(name: &str) -> Option<Vec<Transform>> {
    let crop = |size| {
        Transform::RandomResizedCrop(RandomResizedCrop {
            size: Extent::Square(size),
            scale: [0.2, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
        })
    };
    let jitter = Transform::ColorJitter(ColorJitter {
        brightness: JitterRange::Around(0.4),
        contrast: JitterRange::Around(0.4),
        saturation: JitterRange::Around(0.4),
        hue: JitterRange::Around(0.4),
    });
    let grayscale = Transform::RandomGrayscale(RandomGrayscale { p: 0.2 });
    let flip = Transform::RandomHorizontalFlip(RandomHorizontalFlip { p: 0.5 });
    let to_tensor = Transform::ToTensor(ToTensor {});
    let normalize = |mean, std| Transform::Normalize(Normalize { mean, std });
    let cifar = normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]);
    Some(match name {
        "imagenet-npid" => vec![
            crop(224),
            grayscale,
            jitter,
            flip,
            to_tensor,
            normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ],
        "cifar-npid" => vec![crop(32), jitter, grayscale, to_tensor, cifar],
        "cifar-npid-flip" => vec![crop(32), jitter, grayscale, flip, to_tensor, cifar],
        _ => return None,
    })
}
