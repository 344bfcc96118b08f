# RetinaNet FPN on COCO: data, backbone, normalisation and 1x schedule of mask_rcnn_fpn_coco.py (DATA, Table 3; sources
# there), the detector of detectron2's Base-RetinaNet.yaml [R] and its defaults [D].
# SyncBN is in the backbone and in FPN. The heads, which run on five levels with one set of weights, have no norm:
# MODEL.RETINANET.NORM "" [D].

_base_ = "faster_rcnn_fpn_coco.py"

arch = "d3-4-6-3_w64-64-128-256-512"
norm_cfg = dict(type="SyncBN", requires_grad=True)

model = dict(
    _delete_=True,
    type="RetinaNet",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="DATAResNet",
        arch=arch,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        with_cp=False,
        init_cfg=None,
    ),
    neck=dict(
        type="FPN",
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,  # MODEL.FPN.OUT_CHANNELS [D]
        start_level=1,  # MODEL.FPN.IN_FEATURES res3 to res5 [R]
        add_extra_convs="on_input",  # P6 and P7 from res5, LastLevelP6P7
        num_outs=5,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=80,  # MODEL.RETINANET.NUM_CLASSES [D]
        in_channels=256,
        stacked_convs=4,  # MODEL.RETINANET.NUM_CONVS [D]
        feat_channels=256,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,  # MODEL.ANCHOR_GENERATOR.SIZES 32 to 512, times 2**(0, 1/3, 2/3) [R]
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        # MODEL.RETINANET.FOCAL_LOSS_GAMMA 2, FOCAL_LOSS_ALPHA 0.25 [D]
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),  # MODEL.RETINANET.SMOOTH_L1_LOSS_BETA 0 [R]
    ),
    train_cfg=dict(
        # MODEL.RETINANET.IOU_THRESHOLDS 0.4, 0.5 [R]
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,  # MODEL.RETINANET.TOPK_CANDIDATES_TEST a level [D]
        min_bbox_size=0,
        score_thr=0.05,  # MODEL.RETINANET.SCORE_THRESH_TEST [D]
        nms=dict(type="nms", iou_threshold=0.5),  # MODEL.RETINANET.NMS_THRESH_TEST [D]
        max_per_img=100,  # TEST.DETECTIONS_PER_IMAGE [D]
    ),
)

optim_wrapper = dict(optimizer=dict(lr=0.01))  # SOLVER.BASE_LR 0.01 at batch 16 [R]
