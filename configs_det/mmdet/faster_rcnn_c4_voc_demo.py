# What data-demo trains: of faster_rcnn_c4_voc.py as much as a CPU does in two minutes, on the drawn VOC 2007.

# mypy: disable-error-code="attr-defined"
# MMEngine reads the file that _base_ names before the lines below it, and puts its entries there.
_base_ = "faster_rcnn_c4_voc.py"

max_iters = 120
model = dict(
    train_cfg=dict(rpn_proposal=dict(nms_pre=2000), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(max_per_img=100)),
)

train_pipeline = _base_.train_pipeline
train_pipeline[3].scales = [(320, 240)]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (320, 240)
voc_2007 = _base_.train_dataloader.dataset.datasets[0]
voc_2007.pipeline = train_pipeline
train_dataloader = dict(batch_size=4, dataset=dict(datasets=[voc_2007]))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=20),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=max_iters, milestones=[90], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=20))
custom_hooks = [dict(type="PreciseBNHook", num_iters=20)]
