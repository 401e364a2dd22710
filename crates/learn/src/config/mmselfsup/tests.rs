//! Configurations in the shape of MMSelfSup's, written here; what they become, and what is refused.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use toml::{Table, Value};

use super::{Translation, translate};
use crate::config::load::load;
use crate::config::{Config, Pipeline};
use crate::recipes;

/// `configs/` of MMSelfSup 0.x, as far as NPID goes.
const V0: [(&str, &str); 6] = [
    (
        "_base_/models/npid.py",
        "model = dict(
    type='NPID',
    neg_num=65536,
    backbone=dict(
        type='ResNet', depth=50, in_channels=3, out_indices=[4], norm_cfg=dict(type='SyncBN')),
    neck=dict(type='LinearNeck', in_channels=2048, out_channels=128, with_avg_pool=True),
    head=dict(type='ContrastiveHead', temperature=0.07),
    memory_bank=dict(type='SimpleMemory', length=1281167, feat_dim=128, momentum=0.5))
",
    ),
    (
        "_base_/datasets/imagenet_npid.py",
        "source = 'ImageNet'
img_norm_cfg = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
train_pipeline = [
    dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.)),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
    dict(type='RandomHorizontalFlip'),
]
prefetch = False
if not prefetch:
    train_pipeline.extend([dict(type='ToTensor'), dict(type='Normalize', **img_norm_cfg)])
data = dict(
    samples_per_gpu=32,
    workers_per_gpu=4,
    train=dict(
        type='SingleViewDataset',
        data_source=dict(
            type=source,
            data_prefix='data/imagenet/train',
            ann_file='data/imagenet/meta/train.txt'),
        pipeline=train_pipeline,
        prefetch=prefetch))
",
    ),
    (
        "_base_/schedules/sgd.py",
        "optimizer = dict(type='SGD', lr=0.03, weight_decay=1e-4, momentum=0.9)
optimizer_config = dict()
lr_config = dict(policy='step', step=[120, 160])
runner = dict(type='EpochBasedRunner', max_epochs=200)
",
    ),
    (
        "_base_/default_runtime.py",
        "checkpoint_config = dict(interval=10)
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])
dist_params = dict(backend='nccl')
cudnn_benchmark = True
log_level = 'INFO'
load_from = None
resume_from = None
workflow = [('train', 1)]
persistent_workers = True
opencv_num_threads = 0
mp_start_method = 'fork'
",
    ),
    (
        "npid/npid_resnet50_8xb32-steplr-200e_in1k.py",
        "_base_ = [
    '../_base_/models/npid.py',
    '../_base_/datasets/imagenet_npid.py',
    '../_base_/schedules/sgd.py',
    '../_base_/default_runtime.py',
]
checkpoint_config = dict(interval=10, max_keep_ckpts=3)
",
    ),
    (
        "npid/npid-ensure-neg_resnet50_8xb32-steplr-200e_in1k.py",
        "_base_ = 'npid_resnet50_8xb32-steplr-200e_in1k.py'\nmodel = dict(ensure_neg=True)\n",
    ),
];

/// The same of 1.x.
const V1: &str = "model = dict(
    type='NPID',
    neg_num=65536,
    data_preprocessor=dict(
        mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), bgr_to_rgb=True),
    backbone=dict(
        type='ResNet', depth=50, in_channels=3, out_indices=[4], norm_cfg=dict(type='SyncBN')),
    neck=dict(type='LinearNeck', in_channels=2048, out_channels=128, with_avg_pool=True),
    head=dict(
        type='ContrastiveHead', loss=dict(type='mmcls.CrossEntropyLoss'), temperature=0.07),
    memory_bank=dict(type='SimpleMemory', length=1281167, feat_dim=128, momentum=0.5))
root = 'data/imagenet/'
pipeline = [
    dict(type='LoadImageFromFile', file_client_args=dict(backend='disk')),
    dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.), backend='pillow'),
    dict(
        type='RandomGrayscale', prob=0.2, keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989)),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSelfSupInputs', algorithm_keys=['sample_idx'], meta_keys=['img_path'])
]
train_dataloader = dict(
    batch_size=32, num_workers=8, drop_last=True, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmcls.ImageNet', data_root=root, ann_file='meta/train.txt',
        data_prefix=dict(img_path='train/'), pipeline=pipeline))
optimizer = dict(type='SGD', lr=0.03, weight_decay=1e-4, momentum=0.9)
optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer)
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[120, 160], gamma=0.1)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200)
default_scope = 'mmselfsup'
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=3))
env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend='nccl'))
log_level = 'INFO'
load_from = None
resume = False
";

/// The same of OpenSelfSup, in one file.
const OLD: &str = "train_cfg = {}
test_cfg = {}
optimizer_config = dict()
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])
workflow = [('train', 1)]
model = dict(
    type='NPID',
    neg_num=65536,
    pretrained=None,
    backbone=dict(
        type='ResNet', depth=50, in_channels=3, out_indices=[4], norm_cfg=dict(type='SyncBN')),
    neck=dict(type='LinearNeck', in_channels=2048, out_channels=128, with_avg_pool=True),
    head=dict(type='ContrastiveHead', temperature=0.07),
    memory_bank=dict(type='SimpleMemory', length=1281167, feat_dim=128, momentum=0.5))
source = dict(type='ImageNet', memcached=True, mclient_path='/mnt/memcached')
norm = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
train_pipeline = [
    dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.)),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
    dict(type='RandomHorizontalFlip'),
    dict(type='ToTensor'),
    dict(type='Normalize', **norm),
]
data = dict(
    imgs_per_gpu=32,
    workers_per_gpu=4,
    train=dict(
        type='NPIDDataset',
        data_source=dict(
            list_file='data/imagenet/meta/train.txt', root='data/imagenet/train', **source),
        pipeline=train_pipeline))
optimizer = dict(type='SGD', lr=0.03, weight_decay=0.0001, momentum=0.9, nesterov=False)
lr_config = dict(policy='step', step=[120, 160])
checkpoint_config = dict(interval=10)
total_epochs = 200
";

fn put(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

/// MMSelfSup 0.x in a folder.
fn checkout() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in V0 {
        put(&folder, name, text);
    }
    folder
}

#[track_caller]
fn config(path: &Path, sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let recipe = recipes::find(path.to_str().unwrap()).unwrap_or_else(|error| panic!("{error}"));
    load(&recipe, &sets).unwrap_or_else(|error| panic!("{error}"))
}

/// The configuration with its pictures' place taken out, which an embedded recipe doesn't have, and
/// its pipeline written out.
fn comparable(mut config: Config) -> Config {
    let pipeline = config.pipeline().unwrap();
    config.data.pipeline = Pipeline::List(pipeline.steps().to_vec());
    config.data.path = None;
    config.data.data_prefix = None;
    config
}

#[test]
fn the_published_configurations_are_our_recipes() {
    let folder = checkout();
    for name in [
        "npid_resnet50_8xb32-steplr-200e_in1k",
        "npid-ensure-neg_resnet50_8xb32-steplr-200e_in1k",
    ] {
        let ours = load(&recipes::find(name).unwrap(), &[]).unwrap();
        let theirs = config(&folder.path().join(format!("npid/{name}.py")), &[]);
        assert_eq!(
            theirs.data.path,
            Some("data/imagenet/meta/train.txt".into())
        );
        assert_eq!(theirs.data.data_prefix, Some("data/imagenet/train".into()));
        // Every key, so that one added later is compared too.
        assert_eq!(comparable(theirs), comparable(ours), "{name}");
    }
    // What differs in the other versions is written out here.
    let mut ours = load(
        &recipes::find("npid_resnet50_8xb32-steplr-200e_in1k").unwrap(),
        &[],
    )
    .unwrap();
    let newer = put(&folder, "1.x/npid_resnet50_8xb32-steplr-200e_in1k.py", V1);
    let mut theirs = comparable(config(&newer, &[]));
    assert!(theirs.data.drop_last, "1.x leaves the shorter batch out");
    theirs.data.drop_last = false;
    assert_eq!(theirs, comparable(ours.clone()));
    let older = put(&folder, "old/r50.py", OLD);
    let theirs = config(&older, &[]);
    assert_eq!(theirs.data.batch_size, 32, "its name says nothing of GPUs");
    assert_eq!(theirs.checkpoint.keep, 20, "it keeps all");
    ours.checkpoint.keep = 20;
    let theirs = config(&older, &["data.batch_size=256"]);
    assert_eq!(comparable(theirs), comparable(ours));
}

#[test]
fn what_one_should_know_is_said() {
    let folder = checkout();
    let path = folder
        .path()
        .join("npid/npid_resnet50_8xb32-steplr-200e_in1k.py");
    let said = translate(&path).unwrap().notes.join("\n");
    for words in [
        "batch of 256: 8 GPUs (8xb32 in the file's name) x 32 pictures (data.samples_per_gpu)",
        "--set data.batch_size=N",
        "dist_params, cudnn_benchmark",
        "data.workers_per_gpu (npid chooses",
    ] {
        assert!(said.contains(words), "{said}");
    }
    // Names that only serve others aren't worth a word.
    for helper in ["train_pipeline", "img_norm_cfg", "source (", "prefetch"] {
        assert!(!said.contains(helper), "{said}");
    }
    let own = "_base_ = './npid_resnet50_8xb32-steplr-200e_in1k.py'
data = dict(samples_per_gpu=64)
model = dict(backbone=dict(norm_cfg=dict(type='BN')))
custom_hooks = [dict(type='MyHook')]
mystery = 3
";
    let path = put(&folder, "npid/own_4xb32.py", own);
    let translation = translate(&path).unwrap();
    let said = translation.notes.join("\n");
    for words in [
        "batch of 256: 4 GPUs (4xb32",
        "own_4xb32.py, line 2: data.samples_per_gpu is 64, though the file's name says 32",
        "own_4xb32.py, line 3: model.backbone.norm_cfg is a BN that isn't synchronised",
        "own_4xb32.py, line 4: custom_hooks has a MyHook",
        "not known to npid, and passed over: mystery (",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let place = translation.place("data.batch_size").unwrap();
    assert_eq!(place.line, 2);
    let place = translation.place("model.head.temperature").unwrap();
    assert!(place.file.ends_with("_base_/models/npid.py"));
    assert_eq!(place.line, 7);
    // A file that MMSelfSup saved knows how many GPUs there were.
    let saved = format!("{OLD}gpu_ids = range(0, 2)\n");
    let said = translate(&put(&folder, "saved.py", &saved))
        .unwrap()
        .notes
        .join("\n");
    assert!(
        said.contains("batch of 64: 2 GPUs (gpu_ids) x 32"),
        "{said}"
    );
}

/// The TOML that the 0.x configuration becomes when these lines are added to it.
#[track_caller]
fn changed(lines: &str) -> Result<(Table, Translation), String> {
    let folder = checkout();
    let text = format!("_base_ = 'npid_resnet50_8xb32-steplr-200e_in1k.py'\n{lines}");
    let path = put(&folder, "npid/own_8xb32.py", &text);
    let translation = translate(&path).map_err(|error| error.to_string())?;
    Ok((translation.text.parse().unwrap(), translation))
}

/// The value at a dotted key.
fn at(table: &Table, key: &str) -> Option<Value> {
    let mut parts = key.split('.');
    let mut value = table.get(parts.next()?)?.clone();
    for part in parts {
        value = value.get(part)?.clone();
    }
    Some(value)
}

#[test]
fn keys_and_what_they_become() {
    for (lines, key, value) in [
        ("model = dict(neg_num=4096)", "model.neg_num", "4096"),
        (
            "model = dict(head=dict(_delete_=True, type='ContrastiveHead'))",
            "model.head.temperature",
            "0.1",
        ),
        (
            "model = dict(backbone=dict(frozen_stages=1))",
            "model.backbone.frozen_stages",
            "1",
        ),
        (
            "model = dict(backbone=dict(norm_eval=True))",
            "model.backbone.norm_eval",
            "true",
        ),
        (
            "model = dict(backbone=dict(style='caffe'))",
            "model.backbone.style",
            "\"caffe\"",
        ),
        (
            "model = dict(backbone=dict(base_channels=32))",
            "model.backbone.stem_channels",
            "64",
        ),
        (
            "model = dict(backbone=dict(zero_init_residual=True))",
            "model.backbone.zero_init_residual",
            "true",
        ),
        (
            "model = dict(backbone=dict(_delete_=True, type='mmcls.ResNet', depth=18, out_indices=(3,)))",
            "model.backbone.out_indices",
            "[4]",
        ),
        (
            "model = dict(backbone=dict(_delete_=True, type='mmcls.ResNet', depth=18, out_indices=(3,)))",
            "model.backbone.zero_init_residual",
            "true",
        ),
        (
            "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='r50.pth', prefix='backbone.')))",
            "model.backbone.init_cfg",
            "{ checkpoint = \"r50.pth\", prefix = \"backbone\", type = \"Pretrained\" }",
        ),
        (
            "model = dict(pretrained='r50.pth')",
            "model.backbone.init_cfg.checkpoint",
            "\"r50.pth\"",
        ),
        (
            "model = dict(neck=dict(_delete_=True, type='NonLinearNeck', in_channels=2048, hid_channels=512, out_channels=128, with_last_bn=False))",
            "model.neck.with_last_bn",
            "false",
        ),
        ("data = dict(drop_last=True)", "data.drop_last", "true"),
        ("data = dict(samples_per_gpu=16)", "data.batch_size", "128"),
        (
            "data = dict(train=dict(data_source=dict(ann_file=None)))",
            "data.path",
            "\"data/imagenet/train\"",
        ),
        (
            "data = dict(train=dict(data_source=dict(type='ImageList', ann_file=['a.txt', 'b.txt'])))",
            "data.path",
            "[\"a.txt\", \"b.txt\"]",
        ),
        (
            "data = dict(train=dict(pipeline=[dict(type='RandomResizedCrop', size=(96, 96)), dict(type='RandomAppliedTrans', transforms=[dict(type='GaussianBlur', sigma_min=0.1, sigma_max=2.0)], p=0.8)]))",
            "data.pipeline",
            "[{ size = 96, type = \"RandomResizedCrop\" }, { p = 0.8, transforms = [{ sigma_max = 2.0, sigma_min = 0.1, type = \"GaussianBlur\" }], type = \"RandomApply\" }]",
        ),
        (
            "data = dict(train=dict(prefetch=True, pipeline=[dict(type='CenterCrop', size=64)]))",
            "data.pipeline",
            "[{ size = 64, type = \"CenterCrop\" }, { type = \"ToTensor\" }, { mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225], type = \"Normalize\" }]",
        ),
        (
            "optimizer = dict(nesterov=True)",
            "optimizer.nesterov",
            "true",
        ),
        (
            "optimizer = dict(type='LARS', lr=0.3 * 2, paramwise_options={'(bn|gn)(\\\\d+)?.(weight|bias)': dict(weight_decay=0., lars_exclude=True), 'bias': dict(weight_decay=0., lars_exclude=True)})",
            "optimizer.paramwise_cfg",
            "{ bias_decay_mult = 0.0, bias_lars_exclude = true, norm_decay_mult = 0.0, norm_lars_exclude = true }",
        ),
        ("optimizer = dict(lr=0.3 * 2)", "optimizer.lr", "0.6"),
        (
            "optimizer = dict(paramwise_cfg=dict(norm_decay_mult=0.))",
            "optimizer.paramwise_cfg.norm_decay_mult",
            "0.0",
        ),
        (
            "optimizer_config = dict(update_interval=8)",
            "optimizer_config.update_interval",
            "8",
        ),
        (
            "optimizer_config = dict(type='GradientCumulativeOptimizerHook', cumulative_iters=4)",
            "optimizer_config.update_interval",
            "4",
        ),
        (
            "lr_config = dict(step=60)",
            "lr_config.step",
            "[60, 120, 180]",
        ),
        (
            "lr_config = dict(_delete_=True, policy='CosineAnnealing', min_lr_ratio=0.01)",
            "lr_config.min_lr",
            "0.0003",
        ),
        (
            "lr_config = dict(_delete_=True, policy='CosineAnnealing', min_lr=0., warmup='linear', warmup_iters=10, warmup_ratio=1e-4, warmup_by_epoch=True)",
            "lr_config.warmup_ratio",
            "0.0001",
        ),
        (
            "runner = dict(max_epochs=5)\ntotal_epochs = 7",
            "runner.max_epochs",
            "5",
        ),
        (
            "checkpoint_config = dict(interval=3, max_keep_ckpts=-1)\nrunner = dict(max_epochs=10)",
            "checkpoint.keep",
            "4",
        ),
        (
            "log_config = dict(_delete_=True, hooks=[])",
            "log.interval",
            "10",
        ),
        ("seed = 7", "seed", "7"),
    ] {
        let (table, _) = changed(lines).unwrap_or_else(|error| panic!("{lines}: {error}"));
        let found = at(&table, key).map(|value| value.to_string());
        assert_eq!(found.as_deref(), Some(value), "{lines}: {key}");
    }
    // What mmcv doesn't read without `warmup` has no effect here either, and one batch a step is
    // what there is.
    let (table, _) =
        changed("lr_config = dict(warmup_iters=500)\noptimizer_config = dict(update_interval=1)")
            .unwrap();
    assert_eq!(at(&table, "lr_config.warmup_iters"), None);
    assert_eq!(at(&table, "optimizer_config"), None);
}

#[test]
fn what_would_be_another_run_is_refused_with_its_line() {
    for (lines, line, words) in [
        (
            "model = dict(type='MoCo')",
            2,
            "model.type is MoCo; npid trains NPID",
        ),
        (
            "x = 1\nmodel = dict(backbone=dict(type='VisionTransformer'))",
            3,
            "model.backbone.type is VisionTransformer",
        ),
        (
            "model = dict(backbone=dict(out_indices=[0, 1]))",
            2,
            "model.backbone.out_indices is [0, 1]; the neck reads the last",
        ),
        (
            "model = dict(backbone=dict(deep_stem=True))",
            2,
            "model.backbone.deep_stem is True",
        ),
        (
            "model = dict(backbone=dict(num_stages=3))",
            2,
            "model.backbone.num_stages is 3",
        ),
        (
            "model = dict(backbone=dict(norm_cfg=dict(type='GN')))",
            2,
            "model.backbone.norm_cfg is dict(type='GN')",
        ),
        (
            "model = dict(backbone=dict(plugins=[1]))",
            2,
            "model.backbone.plugins is [1]; npid has nothing like it",
        ),
        (
            "model = dict(pretrained='torchvision://resnet50')",
            2,
            "download the file",
        ),
        (
            "model = dict(\n    neck=dict(type='ODCNeck'))",
            3,
            "model.neck.type is ODCNeck",
        ),
        (
            "model = dict(head=dict(type='LatentPredictHead'))",
            2,
            "model.head.type is LatentPredictHead",
        ),
        (
            "model = dict(memory_bank=dict(type='ODCMemory'))",
            2,
            "model.memory_bank.type is ODCMemory",
        ),
        (
            "model = dict(loss=dict(type='mmcls.LabelSmoothLoss'))",
            2,
            "model.loss.type must be CrossEntropyLoss",
        ),
        (
            "model = dict(odd=1)",
            2,
            "model.odd is 1; npid has nothing like it",
        ),
        (
            "data = dict(samples_per_gpu=0)",
            2,
            "data.samples_per_gpu is 0; it must be a whole number, at least 1",
        ),
        (
            "data = dict(samples_per_gpu=9000000000000000000)",
            2,
            "it is too large",
        ),
        (
            "data = dict(sampling_replace=True)",
            2,
            "data.sampling_replace is True",
        ),
        (
            "data = dict(train=dict(type='MultiViewDataset'))",
            2,
            "data.train.type is MultiViewDataset; NPID learns from one view",
        ),
        (
            "data = dict(train=dict(data_source=dict(type='MyData')))",
            2,
            "data.train.data_source.type is MyData",
        ),
        (
            "data = dict(train=dict(data_source=dict(file_client_args=dict(backend='petrel'))))",
            2,
            "copy the pictures to one",
        ),
        (
            "data = dict(train=dict(pipeline=[dict(p=1)]))",
            2,
            "pipeline.type is missing",
        ),
        (
            "data = dict(train=dict(pipeline=[dict(type='ToTensor')]))",
            2,
            "no crop of the pipeline says",
        ),
        (
            "img_norm_cfg = None\ndata = dict(train=dict(prefetch=True, pipeline=[dict(type='CenterCrop', size=64)]))",
            3,
            "there is no img_norm_cfg",
        ),
        (
            "optimizer = dict(type='AdamW')",
            2,
            "optimizer.type is AdamW; npid has SGD and LARS",
        ),
        (
            "optimizer = dict(dampening=0.1)",
            2,
            "optimizer.dampening is 0.1",
        ),
        (
            "optimizer = dict(paramwise_options={'head': dict(lr_mult=10)})",
            2,
            "npid knows the patterns",
        ),
        (
            "optimizer = dict(paramwise_options={'bias': dict(weight_decay=0.)})",
            2,
            "has the pattern 'bias' alone",
        ),
        (
            "optimizer_config = dict(grad_clip=dict(max_norm=10))",
            2,
            "optimizer_config.grad_clip is dict(max_norm=10)",
        ),
        (
            "optimizer_config = dict(frozen_layers_cfg=dict(a=1))",
            2,
            "npid freezes whole stages",
        ),
        (
            "lr_config = dict(policy='Poly')",
            2,
            "lr_config.policy is Poly; npid has step",
        ),
        (
            "lr_config = dict(warmup='exp')",
            2,
            "lr_config.warmup is exp; npid has linear",
        ),
        (
            "runner = dict(type='IterBasedRunner', max_iters=1000)",
            2,
            "runner.type is IterBasedRunner",
        ),
        (
            "checkpoint_config = dict(by_epoch=False)",
            2,
            "checkpoint_config.by_epoch is False",
        ),
        (
            "load_from = 'epoch_200.pth'",
            2,
            "load_from is 'epoch_200.pth'; set it to None",
        ),
        (
            "resume_from = 'epoch_100.pth'",
            2,
            "npid train --resume RUN",
        ),
        ("workflow = [('train', 1), ('val', 1)]", 2, "npid trains"),
        ("data = 3", 2, "`data` is a dict here"),
        ("import os", 2, "`import os` isn't understood"),
    ] {
        // A name that takes another kind of value than its base's is mmcv's to refuse, not ours.
        let error = match changed(lines) {
            Err(error) => error,
            Ok(_) => panic!("{lines} is accepted"),
        };
        if lines == "data = 3" {
            assert!(
                error.contains("line 2: data is 3; it must be a dict"),
                "{error}"
            );
            continue;
        }
        assert!(error.contains(words), "{lines}: {error}");
        assert!(
            error.contains(&format!("own_8xb32.py, line {line}: ")),
            "{lines}: {error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn the_configuration_is_checked_with_its_lines() {
    let folder = checkout();
    for (lines, sets, words) in [
        (
            "model = dict(\n    head=dict(temperature=-1))",
            vec![],
            "own.py, line 3: model.head.temperature is -1.0",
        ),
        (
            "model = dict(neg_num='many')",
            vec![],
            "own.py, line 2: model.neg_num is",
        ),
        (
            "model = dict(memory_bank=dict(feat_dim=64))",
            vec![],
            "own.py, line 2: model.memory_bank.feat_dim is 64",
        ),
        (
            "optimizer = dict(lr=1)",
            vec!["optimizer.lr=0"],
            "--set optimizer.lr=0: optimizer.lr is 0",
        ),
        (
            "data = dict(train=dict(pipeline=[\n    dict(type='RandomResizedCrop', size=8),\n    dict(type='AutoAugment')]))",
            vec![],
            "own.py, line 4: data.pipeline",
        ),
    ] {
        let text = format!("_base_ = 'npid_resnet50_8xb32-steplr-200e_in1k.py'\n{lines}");
        let path = put(&folder, "npid/own.py", &text);
        let recipe = recipes::find(path.to_str().unwrap()).unwrap();
        let sets: Vec<String> = sets.into_iter().map(String::from).collect();
        let error = load(&recipe, &sets).expect_err(lines).to_string();
        assert!(error.contains(words), "{lines}: {error}");
    }
}

#[test]
fn other_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let find = |name: &str, text: &str| {
        let path = put(&folder, name, text);
        recipes::find(path.to_str().unwrap())
            .unwrap_err()
            .to_string()
    };
    assert!(find("empty.py", "").contains("empty.py: model is missing"));
    assert!(find("half.py", OLD.split("data = dict(").next().unwrap()).contains("data is missing"));
    let without = OLD.replace("total_epochs = 200\n", "");
    assert!(find("endless.py", &without).contains("endless.py: runner.max_epochs is missing"));
    assert!(find("epoch_200.pth", "PK").contains("is a file of weights, not a recipe"));
    let error = recipes::find("work_dirs/npid/epoch_200.pth")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is a file of weights, not a recipe"),
        "{error}"
    );
    let error = recipes::find("gone/npid.py").unwrap_err().to_string();
    assert!(error.contains("gone/npid.py: can't be read"), "{error}");
}

#[test]
fn pictures_that_are_not_there_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = |text: &str| {
        let root = folder.path().display().to_string();
        let text = text.replace("data/imagenet", &format!("{root}/imagenet"));
        translate(&put(&folder, "a.py", &text)).unwrap()
    };
    let said = here(OLD).check_pictures().unwrap_err().to_string();
    assert!(
        said.contains("a.py, line 31: data.train.data_source.ann_file is "),
        "{said}"
    );
    assert!(said.contains("--data PATH, a folder or a list"), "{said}");
    put(&folder, "imagenet/train/a.jpg", "");
    let said = here(V1).check_pictures().unwrap_err().to_string();
    assert!(
        said.contains("train_dataloader.dataset.ann_file is "),
        "{said}"
    );
    assert!(
        said.contains("imagenet/meta/train.txt, which isn't there"),
        "{said}"
    );
    assert!(said.ends_with("imagenet/train/"), "{said}");
    put(&folder, "imagenet/meta/train.txt", "a.jpg 0\n");
    here(V1).check_pictures().unwrap();
    here(OLD).check_pictures().unwrap();
}

#[test]
fn schedules_of_1_x() {
    let folder = tempfile::tempdir().unwrap();
    let base = "param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[120, 160], gamma=0.1)]\n";
    assert!(V1.contains(base));
    let with = |schedule: &str| {
        let text = V1.replace(base, &format!("param_scheduler = {schedule}\n"));
        translate(&put(&folder, "a.py", &text)).map(|t| t.text.parse::<Table>().unwrap())
    };
    let table = with(
        "[dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=10, \
         convert_to_iter_based=True), dict(type='MultiStepLR', milestones=[100])]",
    )
    .unwrap();
    for (key, value) in [
        ("lr_config.policy", "\"step\""),
        ("lr_config.step", "[100]"),
        ("lr_config.warmup_iters", "10"),
        ("lr_config.warmup_by_epoch", "true"),
        ("lr_config.warmup_ratio", "0.0001"),
    ] {
        assert_eq!(at(&table, key).unwrap().to_string(), value, "{key}");
    }
    let table = with("dict(type='CosineAnnealingLR', T_max=200, eta_min=0.001)").unwrap();
    assert_eq!(
        at(&table, "lr_config.policy").unwrap().as_str(),
        Some("CosineAnnealing")
    );
    assert_eq!(
        at(&table, "lr_config.min_lr").unwrap().as_float(),
        Some(0.001)
    );
    for (schedule, words) in [
        (
            "[dict(type='CosineAnnealingLR', T_max=190, begin=10, end=200)]",
            "for a part of the training",
        ),
        (
            "[dict(type='CosineAnnealingLR', T_max=100)]",
            "param_scheduler.T_max is 100",
        ),
        ("[dict(type='PolyLR')]", "npid has one MultiStepLR"),
        (
            "[dict(type='MultiStepLR', milestones=[1], by_epoch=False)]",
            "or by steps",
        ),
    ] {
        let error = with(schedule).unwrap_err().to_string();
        assert!(error.contains(words), "{schedule}: {error}");
    }
    let exact = "paramwise_cfg=dict(custom_keys={'bn': dict(decay_mult=0, lars_exclude=True), \
                 'bias': dict(decay_mult=0, lars_exclude=True), \
                 'downsample.1': dict(decay_mult=0, lars_exclude=True)}), accumulative_counts=2, ";
    let wrapper = "optim_wrapper = dict(type='AmpOptimWrapper', ";
    let text = V1.replace(
        "optim_wrapper = dict(type='OptimWrapper', ",
        &format!("{wrapper}{exact}"),
    );
    let translation = translate(&put(&folder, "b.py", &text)).unwrap();
    let table: Table = translation.text.parse().unwrap();
    let cfg = at(&table, "optimizer.paramwise_cfg").unwrap();
    assert_eq!(
        cfg.get("norm_decay_mult").and_then(Value::as_integer),
        Some(0)
    );
    assert_eq!(
        cfg.get("bias_lars_exclude").and_then(Value::as_bool),
        Some(true)
    );
    assert_eq!(
        at(&table, "optimizer_config.update_interval")
            .unwrap()
            .as_integer(),
        Some(2)
    );
    assert!(
        translation
            .notes
            .iter()
            .any(|note| note.contains("AmpOptimWrapper"))
    );
}
