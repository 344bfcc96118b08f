# FCN on an output-stride-8 backbone, Cityscapes train, val: DenseCL's setting (DATA, Table 6).
#
# Sources, by the letter after a value:
#   [T6] DATA, section 4.2 and Table 6: FCN "following" DenseCL (Wang et al., CVPR 2021), 40k iterations, batch 16,
#        trained on train (2,975 images) and tested on val (500)
#   [DC] the config that DenseCL's authors published, and that the authors of DATA name for this table
#        (github.com/GAIA-vision/GAIA-ssl, issue 4): github.com/WXinlong/mmsegmentation at commit 32b0aff,
#        configs/densecl/fcn_r50-d8_769x769_40k_cityscapes.py and what it is based on
#   [MS] MMSegmentation's own configs/fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py, which says the same as [DC] in
#        today's form but for the stem of its ResNetV1c
# The learning rate is [DC]'s, which trains on 4 GPUs with 2 images each; [T6] has batch 16 and names no other.

default_scope = "mmseg"
custom_imports = dict(imports=["data_plugin.backbones.mmseg"], allow_failed_imports=False)

# The standard ResNet-50, until a search puts its winner here; the heads' in_channels follow.
arch = "d3-4-6-3_w64-64-128-256-512"
norm_cfg = dict(type="SyncBN", requires_grad=True)  # [DC]
crop_size = (769, 769)  # [DC]

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],  # [DC]
        std=[58.395, 57.12, 57.375],  # [DC]
        bgr_to_rgb=True,  # [DC]
        pad_val=0,
        seg_pad_val=255,
        size=crop_size,
    ),
    backbone=dict(
        type="DATAResNet",  # a 7x7 stem [DC], where [MS] has ResNetV1c
        arch=arch,
        num_stages=4,
        strides=(1, 2, 1, 1),  # output stride 8 [DC]
        dilations=(1, 1, 2, 4),  # [DC]
        contract_dilation=True,  # [DC]
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        with_cp=False,
        init_cfg=None,
    ),
    # Everything below in model: [DC].
    decode_head=dict(
        type="FCNHead",
        in_channels=2048,
        in_index=3,
        channels=512,
        num_convs=2,
        concat_input=True,
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=norm_cfg,
        align_corners=True,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=1024,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=norm_cfg,
        align_corners=True,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=crop_size, stride=(513, 513)),
)

# Data: <data_root>/leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and, made by cityscapesScripts,
# <data_root>/gtFine/{train,val}/<city>/*_gtFine_labelTrainIds.png

dataset_type = "CityscapesDataset"
data_root = "data/cityscapes/"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2049, 1025), ratio_range=(0.5, 2.0), keep_ratio=True),  # [DC]
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),  # [DC]
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2049, 1025), keep_ratio=True),  # [DC]
    dict(type="LoadAnnotations"),  # after Resize: evaluation is in the original image's pixels
    dict(type="PackSegInputs"),
]

train_dataloader = dict(
    batch_size=2,  # 16 images a step [T6]: 8 GPUs with 2 images each; on one GPU give batch_size=16
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

# Schedule

max_iters = 40000  # [T6]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=4000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=max_iters, by_epoch=False)]  # [DC]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0005),  # [DC]
    clip_grad=None,
)
auto_scale_lr = dict(enable=False, base_batch_size=16)  # for what batch the learning rate is; enable scales it

# Runtime

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=4000),  # [DC]
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
env_cfg = dict(
    cudnn_benchmark=True,  # [DC]
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
