# Mask R-CNN FPN on COCO, train2017, val2017, 1x schedule (DATA, Table 3).
#
# Sources, by the letter after a value:
#   [T3] DATA, section 4.3 and Table 3: Mask R-CNN with FPN, the standard 1x schedule
#   [M]  MoCo's detection code: configs/Base-RCNN-C4-BN.yaml and coco_R_50_C4_2x.yaml
#   [S]  detectron2's configs/Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml: SyncBN also in FPN and heads, 4conv-1fc box head
#   [F]  detectron2's configs/Base-RCNN-FPN.yaml and COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml
#   [D]  detectron2's default (detectron2/config/defaults.py)
# What MMDetection does differently and no option changes: images are resized by OpenCV instead of PIL, and the RPN
# takes an object's best anchor only from IoU 0.3 up, detectron2 from any.

default_scope = "mmdet"
custom_imports = dict(imports=["data_plugin.backbones.mmdet"], allow_failed_imports=False)

# The standard ResNet-50, until a search puts its winner here; neck.in_channels follows.
arch = "d3-4-6-3_w64-64-128-256-512"
# MODEL.RESNETS.NORM, FPN.NORM, ROI_BOX_HEAD.NORM, ROI_MASK_HEAD.NORM "SyncBN" [S]
norm_cfg = dict(type="SyncBN", requires_grad=True)

model = dict(
    type="MaskRCNN",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],  # MODEL.PIXEL_MEAN [M]
        std=[58.395, 57.12, 57.375],  # MODEL.PIXEL_STD [M]
        bgr_to_rgb=True,  # INPUT.FORMAT "RGB" [M]
        pad_mask=True,
        pad_size_divisor=32,  # the stride of P5, FPN's size_divisibility in detectron2
    ),
    backbone=dict(
        type="DATAResNet",
        arch=arch,
        num_stages=4,
        out_indices=(0, 1, 2, 3),  # MODEL.FPN.IN_FEATURES res2 to res5 [F]
        frozen_stages=-1,  # MODEL.BACKBONE.FREEZE_AT 0 [M]
        norm_cfg=norm_cfg,
        norm_eval=False,
        with_cp=False,
        init_cfg=None,
    ),
    neck=dict(
        type="FPN",
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,  # MODEL.FPN.OUT_CHANNELS [D]
        num_outs=5,  # MODEL.RPN.IN_FEATURES p2 to p6 [F]
        norm_cfg=norm_cfg,
    ),
    rpn_head=dict(
        type="RPNHead",
        in_channels=256,
        feat_channels=256,  # MODEL.RPN.CONV_DIMS [-1]: as many as the input [D]
        anchor_generator=dict(
            type="AnchorGenerator",
            scales=[8],  # MODEL.ANCHOR_GENERATOR.SIZES 32 at stride 4 to 512 at stride 64 [F]
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),  # MODEL.RPN.SMOOTH_L1_BETA 0 [D]
    ),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            # MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 7 [F], POOLER_TYPE ROIAlignV2, POOLER_SAMPLING_RATIO 0 [D]
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],  # MODEL.ROI_HEADS.IN_FEATURES p2 to p5 [F]
        ),
        bbox_head=dict(
            type="Shared4Conv1FCBBoxHead",  # MODEL.ROI_BOX_HEAD.NUM_CONV 4, NUM_FC 1 [S]
            in_channels=256,
            conv_out_channels=256,  # MODEL.ROI_BOX_HEAD.CONV_DIM [D]
            fc_out_channels=1024,  # MODEL.ROI_BOX_HEAD.FC_DIM [D]
            norm_cfg=norm_cfg,
            roi_feat_size=7,
            num_classes=80,  # MODEL.ROI_HEADS.NUM_CLASSES [D]
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder",
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],  # MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS 10, 10, 5, 5 [D]
            ),
            reg_class_agnostic=False,
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),  # MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 0 [D]
        ),
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            # MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION 14 [F], POOLER_TYPE ROIAlignV2, POOLER_SAMPLING_RATIO 0 [D]
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=4,  # MODEL.ROI_MASK_HEAD.NUM_CONV [F]
            in_channels=256,
            conv_out_channels=256,  # MODEL.ROI_MASK_HEAD.CONV_DIM [D]
            norm_cfg=norm_cfg,
            num_classes=80,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        # MODEL.RPN.IOU_THRESHOLDS 0.3, 0.7, BATCH_SIZE_PER_IMAGE 256, POSITIVE_FRACTION 0.5 [D]
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
        # MODEL.RPN.PRE_NMS_TOPK_TRAIN 2000 a level, POST_NMS_TOPK_TRAIN 1000 [F], NMS_THRESH 0.7 [D]
        rpn_proposal=dict(nms_pre=2000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        # MODEL.ROI_HEADS.IOU_THRESHOLDS 0.5, BATCH_SIZE_PER_IMAGE 512, POSITIVE_FRACTION 0.25 [D]
        rcnn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,  # ROIHeads matches with allow_low_quality_matches=False [D]
                ignore_iof_thr=-1,
            ),
            sampler=dict(type="RandomSampler", num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            mask_size=28,
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        # MODEL.RPN.PRE_NMS_TOPK_TEST 1000 a level, POST_NMS_TOPK_TEST 1000 [F]
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        # MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.05, NMS_THRESH_TEST 0.5, TEST.DETECTIONS_PER_IMAGE 100 [D]
        rcnn=dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5),
    ),
)

# Data

dataset_type = "CocoDataset"
data_root = "data/coco/"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize",
        scales=[(1333, side) for side in range(640, 801, 32)],  # INPUT.MIN_SIZE_TRAIN [M], MAX_SIZE_TRAIN 1333 [D]
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),  # INPUT.MIN_SIZE_TEST 800 [M]
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),  # after Resize: scored in the original's pixels
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=2,  # SOLVER.IMS_PER_BATCH 16 [F]: 8 GPUs with 2 images each; on one GPU give batch_size=16
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),  # DATALOADER.SAMPLER_TRAIN "TrainingSampler" [D]
    batch_sampler=dict(type="AspectRatioBatchSampler"),  # DATALOADER.ASPECT_RATIO_GROUPING [D]
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True),  # DATALOADER.FILTER_EMPTY_ANNOTATIONS [D]
        pipeline=train_pipeline,
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
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="CocoMetric", ann_file=data_root + "annotations/instances_val2017.json", metric=["bbox", "segm"]
)
test_evaluator = val_evaluator

# Schedule

max_iters = 90000  # SOLVER.MAX_ITER [F], 1x [T3]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    # SOLVER.WARMUP_ITERS 1000, WARMUP_FACTOR 1/1000 [D]
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    # SOLVER.STEPS 60000, 80000 [F]
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=max_iters, milestones=[60000, 80000], gamma=0.1),
]
optim_wrapper = dict(
    type="OptimWrapper",
    # SOLVER.BASE_LR 0.02 at batch 16 [F], momentum and weight decay [D]
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
# TEST.PRECISE_BN.ENABLED [M] [S], NUM_ITER 200 [D]; neither MMEngine nor MMDetection has such a hook
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
