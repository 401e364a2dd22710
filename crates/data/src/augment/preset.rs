//! Published pipelines by name.

use super::{
    ColorJitter, Extent, GaussianBlur, Interpolation, JitterRange, Normalize, RandomApply,
    RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop, ToTensor, Transform,
};

/// Names that [`preset`] knows.
pub const PRESETS: [&str; 4] = [
    "imagenet-npid",
    "imagenet-mocov2",
    "cifar-npid",
    "cifar-npid-flip",
];

/// The pipeline of this name.
///
/// - `imagenet-npid`: MMSelfSup 0.x, `configs/selfsup/_base_/datasets/imagenet_npid.py`.
/// - `imagenet-mocov2`: one view of MMSelfSup 0.x, `configs/selfsup/_base_/datasets/imagenet_mocov2.py`
///   (and of `main_moco.py --aug-plus` in facebookresearch/moco).
/// - `cifar-npid`: `cifar.py` of the authors' repository (zhirongw/lemniscate.pytorch). The flip
///   is commented out there, so there is none here.
/// - `cifar-npid-flip`: the same with the flip.
pub fn preset(name: &str) -> Option<Vec<Transform>> {
    let crop = |size| {
        Transform::RandomResizedCrop(RandomResizedCrop {
            size: Extent::Square(size),
            scale: [0.2, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            interpolation: Interpolation::Bilinear,
        })
    };
    let jitter = |hue| {
        Transform::ColorJitter(ColorJitter {
            brightness: JitterRange::Around(0.4),
            contrast: JitterRange::Around(0.4),
            saturation: JitterRange::Around(0.4),
            hue: JitterRange::Around(hue),
        })
    };
    let grayscale = Transform::RandomGrayscale(RandomGrayscale { p: 0.2 });
    let flip = Transform::RandomHorizontalFlip(RandomHorizontalFlip { p: 0.5 });
    let to_tensor = Transform::ToTensor(ToTensor {});
    let normalize = |mean, std| Transform::Normalize(Normalize { mean, std });
    let cifar = normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]);
    let imagenet = normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    Some(match name {
        "imagenet-npid" => vec![crop(224), grayscale, jitter(0.4), flip, to_tensor, imagenet],
        "imagenet-mocov2" => vec![
            crop(224),
            Transform::RandomApply(RandomApply {
                transforms: vec![jitter(0.1)],
                p: 0.8,
            }),
            grayscale,
            Transform::GaussianBlur(GaussianBlur {
                sigma_min: 0.1,
                sigma_max: 2.0,
                p: 0.5,
            }),
            flip,
            to_tensor,
            imagenet,
        ],
        "cifar-npid" => vec![crop(32), jitter(0.4), grayscale, to_tensor, cifar],
        "cifar-npid-flip" => vec![crop(32), jitter(0.4), grayscale, flip, to_tensor, cifar],
        _ => return None,
    })
}
