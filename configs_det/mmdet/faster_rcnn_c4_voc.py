# Faster R-CNN C4 on PASCAL VOC, trainval07+12, test2007: MoCo's recipe (DATA, Table 5).
#
# Sources, by the letter after a value:
#   [M]  MoCo's detection code: configs/Base-RCNN-C4-BN.yaml, pascal_voc_R_50_C4_24k.yaml and its _moco.yaml
#   [D]  detectron2's default, which [M] inherits (detectron2/config/defaults.py)
#   [C4] MMDetection's own C4 detector, configs/_base_/models/faster-rcnn_r50-caffe-c4.py, where it equals [D]
# What MMDetection does differently and no option changes: images are resized by OpenCV instead of PIL, and the RPN
# takes an object's best anchor only from IoU 0.3 up, detectron2 from any [C4].

default_scope = "mmdet"
custom_imports = dict(imports=["data_plugin.backbones.mmdet"], allow_failed_imports=False)

# The standard ResNet-50, until a search puts its winner here; rpn_head, bbox_roi_extractor and bbox_head follow.
arch = "d3-4-6-3_w64-64-128-256-512"
norm_cfg = dict(type="SyncBN", requires_grad=True)  # MODEL.RESNETS.NORM "SyncBN" [M]

model = dict(
    type="FasterRCNN",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],  # MODEL.PIXEL_MEAN [M]
        std=[58.395, 57.12, 57.375],  # MODEL.PIXEL_STD [M]
        bgr_to_rgb=True,  # INPUT.FORMAT "RGB" [M]
        pad_size_divisor=1,  # a C4 backbone pads to the largest image of the batch only [D]
    ),
    backbone=dict(
        type="DATAResNet",
        arch=arch,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        frozen_stages=-1,  # MODEL.BACKBONE.FREEZE_AT 0 [M]
        norm_cfg=norm_cfg,
        norm_eval=False,
        with_cp=False,
        init_cfg=None,
    ),
    rpn_head=dict(
        type="RPNHead",
        in_channels=1024,
        feat_channels=1024,  # MODEL.RPN.CONV_DIMS [-1]: as many as the input [D]
        anchor_generator=dict(
            type="AnchorGenerator",
            scales=[2, 4, 8, 16, 32],  # MODEL.ANCHOR_GENERATOR.SIZES 32 to 512 at stride 16 [D]
            ratios=[0.5, 1.0, 2.0],
            strides=[16],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),  # MODEL.RPN.SMOOTH_L1_BETA 0 [D]
    ),
    roi_head=dict(
        type="StandardRoIHead",
        shared_head=dict(
            type="DATAResLayer",
            arch=arch,
            stride=2,
            dilation=1,
            norm_cfg=norm_cfg,
            norm_eval=False,
            with_cp=False,
            extra_norm=True,  # MODEL.ROI_HEADS.NAME "Res5ROIHeadsExtraNorm" [M]
            init_cfg=None,
        ),
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            # MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 14, POOLER_TYPE ROIAlignV2, POOLER_SAMPLING_RATIO 0 [D]
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=1024,
            featmap_strides=[16],
        ),
        bbox_head=dict(
            type="BBoxHead",
            with_avg_pool=True,
            roi_feat_size=7,
            in_channels=2048,
            num_classes=20,  # MODEL.ROI_HEADS.NUM_CLASSES [M]
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder",
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],  # MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS 10, 10, 5, 5 [D]
            ),
            reg_class_agnostic=False,
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),  # MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 0 [D]
        ),
    ),
    # Everything below in model: [D] and [C4] agree.
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type="RandomSampler", num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(nms_pre=12000, max_per_img=2000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type="RandomSampler", num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        # MODEL.RPN.PRE_NMS_TOPK_TEST 6000, POST_NMS_TOPK_TEST 1000 [M]
        rpn=dict(nms_pre=6000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
    ),
)

# Data

dataset_type = "VOCDataset"
data_root = "data/VOCdevkit/"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="IncludeDifficult"),  # load_voc_instances trains on difficult objects too [D]
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="RandomChoiceResize",
        # INPUT.MIN_SIZE_TRAIN [M], INPUT.MAX_SIZE_TRAIN 1333 [D]
        scales=[(1333, side) for side in range(480, 801, 32)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),  # INPUT.MIN_SIZE_TEST 800 [M]
    dict(type="LoadAnnotations", with_bbox=True),  # after Resize: evaluation is in the original image's pixels
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=2,  # SOLVER.IMS_PER_BATCH 16 [M]: 8 GPUs with 2 images each; on one GPU give batch_size=16
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),  # DATALOADER.SAMPLER_TRAIN "TrainingSampler" [D]
    batch_sampler=dict(type="AspectRatioBatchSampler"),  # DATALOADER.ASPECT_RATIO_GROUPING [D]
    dataset=dict(
        type="ConcatDataset",
        ignore_keys=["dataset_type"],
        datasets=[
            dict(
                type=dataset_type,
                data_root=data_root,
                ann_file=f"VOC{year}/ImageSets/Main/trainval.txt",
                data_prefix=dict(sub_data_root=f"VOC{year}/"),
                filter_cfg=dict(filter_empty_gt=True),  # DATALOADER.FILTER_EMPTY_ANNOTATIONS [D]
                pipeline=train_pipeline,
            )
            for year in ("2007", "2012")
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="VOC2007/ImageSets/Main/test.txt",
        data_prefix=dict(sub_data_root="VOC2007/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

# AP over IoU 0.5:0.95, AP50 and AP75, with the 11 points of VOC 2007, as detectron2's PascalVOCDetectionEvaluator.
val_evaluator = dict(
    type="VOCMetric",
    metric="mAP",
    iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95],
    eval_mode="11points",
)
test_evaluator = val_evaluator

# Schedule

max_iters = 24000  # SOLVER.MAX_ITER [M]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    # SOLVER.WARMUP_ITERS 100 [M], SOLVER.WARMUP_FACTOR 1/1000 [D]
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=100),
    # SOLVER.STEPS 18000, 22000 [M]
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=max_iters, milestones=[18000, 22000], gamma=0.1),
]
optim_wrapper = dict(
    type="OptimWrapper",
    # SOLVER.BASE_LR 0.02 at batch 16 [M], momentum and weight decay [D]
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001),
    paramwise_cfg=dict(norm_decay_mult=0.0),  # SOLVER.WEIGHT_DECAY_NORM 0 [D]
)
auto_scale_lr = dict(enable=False, base_batch_size=16)  # for what batch the learning rate is; enable scales it

# Runtime

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=5000),  # SOLVER.CHECKPOINT_PERIOD 5000 [D]
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="DetVisualizationHook"),
)
# TEST.PRECISE_BN.ENABLED [M], NUM_ITER 200 [D]; neither MMEngine nor MMDetection has such a hook
custom_hooks = [dict(type="PreciseBNHook", num_iters=200)]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="DetLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
