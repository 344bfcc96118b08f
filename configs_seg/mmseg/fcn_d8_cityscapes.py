# FCN on an output-stride-8 backbone, Cityscapes train, val: DenseCL's setting (DATA, Table 6).
#
# Sources, by the letter after a value:
#   [T6] DATA, section 4.2 and Table 6: FCN "following" DenseCL, 40k iterations, batch 16, trained on train (2,975
#        images) and tested on val (500)
#   [DC] DenseCL (Wang et al., CVPR 2021), section 4.1: MMSegmentation's settings, but with the first 7x7 convolution
#        of the pre-trained network; batch 16, synchronised batch norm, crops of 769
#   [MS] MMSegmentation's own configs/fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py and what it is based on, which
#        [DC] follows
# The learning rate is [MS]'s, as neither [T6] nor [DC] names another; [MS] has it at batch 8.

default_scope = "mmseg"
custom_imports = dict(imports=["data_plugin.backbones.mmseg"], allow_failed_imports=False)

# The standard ResNet-50, until a search puts its winner here; the heads' in_channels follow.
arch = "d3-4-6-3_w64-64-128-256-512"
norm_cfg = dict(type="SyncBN", requires_grad=True)  # [DC], [MS]
crop_size = (769, 769)  # [DC]

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],  # [MS]
        std=[58.395, 57.12, 57.375],  # [MS]
        bgr_to_rgb=True,  # [MS]
        pad_val=0,
        seg_pad_val=255,
        size=crop_size,
    ),
    backbone=dict(
        type="DATAResNet",  # a plain stem [DC], where [MS] has ResNetV1c
        arch=arch,
        num_stages=4,
        strides=(1, 2, 1, 1),  # output stride 8 [MS]
        dilations=(1, 1, 2, 4),  # [MS]
        contract_dilation=True,  # [MS]
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        with_cp=False,
        init_cfg=None,
    ),
    # Everything below in model: [MS].
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
    dict(type="RandomResize", scale=(2049, 1025), ratio_range=(0.5, 2.0), keep_ratio=True),  # [MS]
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),  # [MS]
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2049, 1025), keep_ratio=True),  # [MS]
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
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=max_iters, by_epoch=False)]  # [MS]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0005),  # [MS]
    clip_grad=None,
)
auto_scale_lr = dict(enable=False, base_batch_size=16)

# Runtime

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=4000),  # [MS]
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
env_cfg = dict(
    cudnn_benchmark=True,  # [MS]
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
