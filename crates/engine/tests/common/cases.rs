//! Networks and methods, odd in every size.

use npid_engine::{Description, Sizes};
use npid_network::graph::{Init, Network, Window};
use npid_network::method::{Head, Lars, MemoryBank, Npid, RowStorage, RowType, Sgd};
use npid_network::neck::{Layers, Neck, embed};
use npid_network::resnet::{ResNet, Stem, Style};

/// A description to compile, and the sizes to compile it for.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    /// 18, 50, ... or 0 for a small plain network.
    pub depth: usize,
    pub stem: Stem,
    pub base_channels: usize,
    pub in_channels: usize,
    pub out_indices: &'static [usize],
    /// What else the ResNet has.
    pub resnet: fn(&mut ResNet),
    /// (D, norm), or no neck at all.
    pub neck: Option<(usize, bool)>,
    pub layers: Layers,
    /// τ of the head, exact (softmax) or not; no method without one.
    pub head: Option<Head>,
    pub neg_num: usize,
    pub rows: usize,
    pub ensure_neg: bool,
    /// Whether some rows are drawn more often, and one never.
    pub weighted: bool,
    pub bank_momentum: f32,
    /// How the bank's rows are stored.
    pub rows_dtype: RowType,
    /// Classes of each classifier, on the pooled last stage.
    pub classifiers: &'static [usize],
    /// Parameters whose name starts with this are frozen.
    pub frozen: Option<&'static str>,
    pub sgd: Sgd,
    pub sizes: Sizes,
}

const SGD: Sgd = Sgd {
    momentum: 0.9,
    nesterov: false,
    weight_decay: 5e-4,
    lars: None,
};

const BASE: Case = Case {
    name: "",
    depth: 18,
    stem: Stem::Cifar,
    base_channels: 3,
    in_channels: 3,
    out_indices: &[4],
    resnet: |_| {},
    neck: Some((8, true)),
    layers: Layers::Linear,
    head: Some(Head::Contrastive { temperature: 0.2 }),
    neg_num: 6,
    rows: 11,
    ensure_neg: true,
    weighted: false,
    bank_momentum: 0.5,
    rows_dtype: RowType::F32,
    classifiers: &[],
    frozen: None,
    sgd: SGD,
    sizes: Sizes {
        batch: 4,
        height: 17,
        width: 13,
    },
};

const fn sizes(batch: usize, height: usize, width: usize) -> Sizes {
    Sizes {
        batch,
        height,
        width,
    }
}

const SOFTMAX: Option<Head> = Some(Head::Softmax { temperature: 0.1 });

/// All of them.
pub fn all() -> Vec<Case> {
    vec![
        Case {
            name: "r18-w3-contrastive",
            ..BASE
        },
        Case {
            name: "r18-w3-softmax-imagenet",
            stem: Stem::ImageNet,
            head: SOFTMAX,
            neck: Some((5, false)),
            sizes: sizes(3, 35, 41),
            ..BASE
        },
        Case {
            name: "r18-w1-gray",
            base_channels: 1,
            in_channels: 1,
            out_indices: &[0, 2, 4],
            neck: Some((3, false)),
            ensure_neg: false,
            bank_momentum: 0.9,
            ..BASE
        },
        Case {
            name: "r18-w10-rgba-no-neck",
            base_channels: 10,
            in_channels: 4,
            neck: None,
            out_indices: &[1, 3],
            head: SOFTMAX,
            rows: 37,
            sizes: sizes(5, 16, 24),
            ..BASE
        },
        Case {
            name: "r18-w16-classifiers",
            base_channels: 16,
            classifiers: &[7, 2],
            neck: Some((16, true)),
            rows: 70,
            neg_num: 33,
            sgd: Sgd {
                nesterov: true,
                ..SGD
            },
            sizes: sizes(5, 12, 20),
            ..BASE
        },
        Case {
            name: "r18-w20-imagenet-frozen",
            stem: Stem::ImageNet,
            base_channels: 20,
            out_indices: &[0, 1, 2, 3, 4],
            frozen: Some("backbone.layer1.0."),
            neck: Some((19, true)),
            head: SOFTMAX,
            rows: 129,
            sizes: sizes(3, 64, 50),
            ..BASE
        },
        Case {
            name: "r18-w10-frozen-stem",
            base_channels: 10,
            frozen: Some("backbone.conv1"),
            sgd: Sgd {
                momentum: 0.0,
                nesterov: false,
                weight_decay: 0.0,
                lars: None,
            },
            ..BASE
        },
        Case {
            name: "r50-w3-cifar",
            depth: 50,
            head: SOFTMAX,
            out_indices: &[1, 4],
            sizes: sizes(3, 19, 16),
            ..BASE
        },
        Case {
            name: "r50-w10-imagenet",
            depth: 50,
            stem: Stem::ImageNet,
            base_channels: 10,
            neck: Some((32, false)),
            sizes: sizes(2, 65, 70),
            ..BASE
        },
        Case {
            name: "r18-w8-batch-of-12",
            base_channels: 8,
            neck: Some((16, false)),
            head: Some(Head::Contrastive { temperature: 0.5 }),
            neg_num: 32,
            rows: 40,
            sizes: sizes(12, 24, 24),
            ..BASE
        },
        Case {
            name: "r18-classifier-alone",
            head: None,
            neck: None,
            base_channels: 10,
            classifiers: &[3],
            ..BASE
        },
        Case {
            name: "plain",
            depth: 0,
            base_channels: 5,
            neck: Some((7, true)),
            head: SOFTMAX,
            out_indices: &[0],
            ..BASE
        },
        Case {
            name: "plain-contrastive-wide",
            depth: 0,
            base_channels: 33,
            in_channels: 1,
            neck: Some((130, false)),
            out_indices: &[0],
            neg_num: 300,
            rows: 1001,
            sizes: sizes(5, 11, 29),
            ..BASE
        },
        Case {
            name: "r18-w6-nce",
            base_channels: 6,
            head: Some(Head::Nce {
                temperature: 0.2,
                z_momentum: 0.0,
                proximal: 0.0,
            }),
            neg_num: 301,
            rows: 23,
            ..BASE
        },
        Case {
            name: "r18-w5-nce-running-proximal",
            base_channels: 5,
            head: Some(Head::Nce {
                temperature: 0.05,
                z_momentum: 0.3,
                proximal: 0.4,
            }),
            neck: Some((19, true)),
            neg_num: 37,
            rows: 50,
            weighted: true,
            ensure_neg: false,
            ..BASE
        },
        Case {
            name: "r18-w4-weighted-mocov2-neck",
            base_channels: 4,
            layers: Layers::MoCoV2 { hid_channels: 9 },
            weighted: true,
            rows: 40,
            neg_num: 20,
            ..BASE
        },
        Case {
            name: "r50-w2-caffe-nonlinear-neck-lars",
            depth: 50,
            base_channels: 2,
            resnet: |r| {
                r.style = Style::Caffe;
                r.stem_channels = Some(5);
            },
            layers: Layers::NonLinear {
                hid_channels: 11,
                num_layers: 3,
                with_bias: true,
                with_last_bn: true,
                with_last_bn_affine: true,
                with_last_bias: false,
            },
            neck: Some((6, false)),
            head: SOFTMAX,
            sgd: Sgd {
                nesterov: true,
                lars: Some(Lars {
                    eta: 0.02,
                    eps: 1e-8,
                }),
                ..SGD
            },
            sizes: sizes(9, 17, 13),
            rows: 31,
            ..BASE
        },
        Case {
            name: "r18-w5-frozen-stages",
            base_channels: 5,
            resnet: |r| r.frozen_stages = Some(2),
            sgd: Sgd {
                momentum: 0.0,
                lars: Some(Lars {
                    eta: 0.02,
                    eps: 1e-8,
                }),
                ..SGD
            },
            ..BASE
        },
        Case {
            name: "r18-w7-norm-eval-frozen-stem",
            base_channels: 7,
            stem: Stem::ImageNet,
            resnet: |r| {
                r.norm_eval = true;
                r.frozen_stages = Some(0);
                r.zero_init_residual = true;
            },
            sizes: sizes(4, 40, 33),
            ..BASE
        },
    ]
}

/// The case of this name.
pub fn case(name: &str) -> Case {
    let found = all().into_iter().find(|c| c.name == name);
    found.unwrap_or_else(|| panic!("no case {name}"))
}

impl Case {
    /// The description.
    pub fn description(&self) -> Description {
        let mut net = Network::new();
        let c = self.in_channels;
        let mean = &[0.485, 0.456, 0.406, 0.5][..c];
        let x = net.input(mean, &[0.229, 0.224, 0.225, 0.25][..c]).unwrap();
        let x = if self.depth == 0 {
            self.plain(&mut net, x)
        } else {
            let mut resnet = ResNet::new(self.depth, self.stem, self.base_channels);
            resnet.out_indices = self.out_indices.to_vec();
            (self.resnet)(&mut resnet);
            resnet.build(&mut net, x, "backbone.").unwrap()
        };
        if self.neck.is_some() || self.head.is_some() {
            let neck = self.neck.map(|(out_channels, norm)| Neck {
                layers: self.layers.clone(),
                ..Neck::linear(out_channels, norm)
            });
            embed(&mut net, x, neck.as_ref()).unwrap();
        }
        for (i, &classes) in self.classifiers.iter().enumerate() {
            let pooled = net.global_avg_pool(&format!("head{i}.avgpool"), x);
            net.classifier(&format!("head{i}.fc"), pooled, classes)
                .unwrap();
        }
        for p in &mut net.params {
            p.trainable &= self.frozen.is_none_or(|f| !p.name.starts_with(f));
            if p.name.starts_with("neck.") {
                (p.lr_mult, p.decay_mult) = (0.5, 2.0);
            }
            p.lars_exclude = p.name.contains(".bn1.");
        }
        let method = self.head.map(|head| Npid {
            head,
            memory_bank: MemoryBank {
                length: self.rows,
                feat_dim: net.feat_dim(),
                momentum: self.bank_momentum,
                dtype: self.rows_dtype,
                storage: RowStorage::Memory,
            },
            neg_num: self.neg_num,
            ensure_neg: self.ensure_neg,
        });
        Description {
            network: net,
            neg_weights: (self.weighted && method.is_some())
                .then(|| (0..self.rows).map(|i| (i % 4) as f64 * 0.7).collect()),
            method,
            optimizer: self.sgd,
            seed: 5,
        }
    }

    /// Kernels, strides and paddings that no ResNet has.
    fn plain(
        &self,
        net: &mut Network,
        x: npid_network::graph::NodeId,
    ) -> npid_network::graph::NodeId {
        let w = self.base_channels;
        let init = Init::KaimingNormalFanOut;
        let x = net.conv2d("backbone.a", x, w, 3, 1, 0, init).unwrap();
        let x = net.batch_norm("backbone.a_bn", x, true);
        let x = net.relu("backbone.a_relu", x);
        net.stages = vec![(0, x)];
        let window = Window {
            kernel: 2,
            stride: 2,
            padding: 0,
        };
        let x = net.max_pool("backbone.pool", x, window).unwrap();
        let y = net.conv2d("backbone.b", x, w, 5, 1, 2, init).unwrap();
        let y = net.batch_norm("backbone.b_bn", y, false);
        let x = net.add("backbone.add", x, y).unwrap();
        let x = net.relu("backbone.b_relu", x);
        let x = net
            .conv2d("backbone.c", x, 2 * w + 1, 1, 2, 0, init)
            .unwrap();
        net.batch_norm("backbone.c_bn", x, true)
    }
}
