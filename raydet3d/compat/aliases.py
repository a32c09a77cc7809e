"""Table of MMEngine's, MMDetection3D's, MMDetection's and mmcv's names. Strings only: imports happen on first use.

Each row of `_ROWS` is one package of theirs: its inner modules (each offers all names of the package, so
`mmengine.optim.optimizer.optimizer_wrapper.OptimWrapper` is found too), and per home of ours
the names that it gives. A home is a module, or a table of `raydet3d.registry`, in capitals. `theirs=ours` where
names differ.
"""

from __future__ import annotations

VERSIONS = {"mmengine": "0.10.7", "mmcv": "2.1.0", "mmdet": "3.3.0", "mmdet3d": "1.4.0"}
"""The packages, and the version whose names these are."""

_CURVES = (
    "ConstantX CosineAnnealingX CosineRestartX ExponentialX LinearX MultiStepX OneCycleX PolyX ReduceOnPlateauX StepX"
)
_SCHEDULERS = " ".join(_CURVES.replace("X", suffix) for suffix in ("LR", "Momentum", "ParamScheduler"))
_TABLES = (
    "DATASETS DATA_SAMPLERS EVALUATOR FUNCTIONS HOOKS INFERENCERS LOG_PROCESSORS LOOPS METRICS MODELS MODEL_WRAPPERS "
    "OPTIMIZERS OPTIM_WRAPPERS OPTIM_WRAPPER_CONSTRUCTORS PARAM_SCHEDULERS RUNNERS RUNNER_CONSTRUCTORS STRATEGIES "
    "TASK_UTILS TRANSFORMS VISBACKENDS VISUALIZERS WEIGHT_INITIALIZERS Registry build_from_cfg"
)
_TYPES = "ConfigType InstanceList MultiConfig OptConfigType OptInstanceList OptMultiConfig"
_TRANSFORMS = (
    "GlobalRotScaleTrans LoadAnnotations3D LoadPointsFromDict LoadPointsFromFile LoadPointsFromMultiSweeps "
    "MultiScaleFlipAug3D ObjectNameFilter ObjectNoise ObjectRangeFilter ObjectSample Pack3DDetInputs PointShuffle "
    "PointsRangeFilter RandomFlip3D"
)
_LOSSES = "CrossEntropyLoss FocalLoss GaussianFocalLoss L1Loss SmoothL1Loss"

_ROWS: dict[str, tuple[str, dict[str, str]]] = {
    # ------------------------------------------------------------------------------------------------- MMEngine
    "mmengine": ("", {}),
    "mmengine.config": (
        "config",
        {"raydet3d.config": "Config ConfigDict DictAction", "raydet3d.config.pure_python": "read_base"},
    ),
    "mmengine.dataset": (
        "base_dataset dataset_wrapper sampler utils",
        {
            "DATASETS": "BaseDataset=Det3DDataset ConcatDataset RepeatDataset",
            "DATA_SAMPLERS": "DefaultSampler InfiniteSampler",
            "raydet3d.data": "Compose pseudo_collate",
            "torch.utils.data": "default_collate",
        },
    ),
    "mmengine.device": (
        "utils",
        {
            "torch.cuda": "is_cuda_available=is_available",
            "raydet3d.dist": "get_device",
            "raydet3d.compat.mmengine_utils": " ".join(
                f"is_{kind}_available=is_unsupported_device" for kind in ("dipu", "mlu", "mps", "musa", "npu")
            ),
        },
    ),
    "mmengine.dist": (
        "dist utils",
        {
            "raydet3d.dist": "all_gather all_gather_object all_reduce all_reduce_dict all_reduce_params barrier "
            "broadcast broadcast_object_list collect_results gather gather_object get_backend get_dist_info "
            "get_local_rank get_rank get_world_size is_distributed is_main_process master_only sync_random_seed"
        },
    ),
    "mmengine.evaluator": ("evaluator metric", {"raydet3d.metrics": "BaseMetric", "EVALUATOR": "Evaluator"}),
    "mmengine.fileio": (
        "io parse",
        {
            "raydet3d.compat.fileio": "LocalBackend dict_from_file dump exists get get_file_backend get_local_path "
            "get_text isdir isfile join_path list_dir_or_file list_from_file load put put_text remove"
        },
    ),
    "mmengine.hooks": (
        "checkpoint_hook early_stopping_hook ema_hook empty_cache_hook hook iter_timer_hook logger_hook "
        "param_scheduler_hook profiler_hook runtime_info_hook sampler_seed_hook sync_buffer_hook test_time_aug_hook",
        {
            "raydet3d.hooks.base": "DATA_BATCH Hook",
            "raydet3d.runtime": "build_runner_with_tta",
            "torch.profiler": "check_kineto=kineto_available",
            "HOOKS": "CheckpointHook DistSamplerSeedHook EMAHook EarlyStoppingHook EmptyCacheHook IterTimerHook "
            "LoggerHook ParamSchedulerHook PrepareTTAHook ProfilerHook RuntimeInfoHook SyncBuffersHook",
        },
    ),
    "mmengine.logging": (
        "history_buffer logger message_hub",
        {"raydet3d.log": "MMLogger print_log", "raydet3d.runtime.history": "HistoryBuffer=Series MessageHub"},
    ),
    "mmengine.model": (
        "averaged_model base_model base_model.base_model base_model.data_preprocessor base_module test_time_aug utils "
        "weight_init wrappers wrappers.distributed wrappers.utils",
        {
            "raydet3d.models.module": "BaseModule ModuleDict ModuleList Sequential",
            "raydet3d.models.weight_init": "bias_init_with_prob constant_init initialize kaiming_init normal_init "
            "trunc_normal_init uniform_init xavier_init",
            "raydet3d.models": "BaseAveragedModel BaseDataPreprocessor BaseModel BaseTTAModel "
            "ExponentialMovingAverage ImgDataPreprocessor MomentumAnnealingEMA StochasticWeightAverage stack_batch",
            "raydet3d.dist": "is_model_wrapper",
            "raydet3d.runtime.ddp": "convert_sync_batchnorm=to_sync_bn revert_sync_batchnorm=from_sync_bn",
            "MODEL_WRAPPERS": "MMDistributedDataParallel MMSeparateDistributedDataParallel",
        },
    ),
    "mmengine.optim": (
        "optimizer optimizer.amp_optimizer_wrapper optimizer.base optimizer.builder optimizer.default_constructor "
        "optimizer.optimizer_wrapper optimizer.optimizer_wrapper_dict optimizer.zero_optimizer scheduler "
        "scheduler.lr_scheduler scheduler.momentum_scheduler scheduler.param_scheduler",
        {
            "PARAM_SCHEDULERS": _SCHEDULERS,
            "OPTIM_WRAPPERS": "AmpOptimWrapper OptimWrapper",
            "OPTIM_WRAPPER_CONSTRUCTORS": "DefaultOptimWrapperConstructor",
            "OPTIMIZERS": "ZeroRedundancyOptimizer",
            "raydet3d.optim": "OptimWrapperDict TORCH_OPTIMIZERS build_optim_wrapper _ParamScheduler=ParamScheduler",
            "raydet3d.registry": "OPTIMIZERS OPTIM_WRAPPERS OPTIM_WRAPPER_CONSTRUCTORS PARAM_SCHEDULERS",
        },
    ),
    "mmengine.registry": (
        "build_functions default_scope registry root utils",
        {
            "raydet3d.registry": _TABLES,
            "raydet3d.models.module": "build_model_from_cfg",
            "raydet3d.compat.managers": "DefaultScope init_default_scope",
        },
    ),
    "mmengine.runner": (
        "activation_checkpointing amp base_loop checkpoint log_processor loops priority runner utils",
        {
            "raydet3d.runtime": "Runner",
            "raydet3d.runtime.loops": "BaseLoop",
            "raydet3d.runtime.activation_checkpoint": "turn_on_activation_checkpointing=checkpoint_activations",
            "raydet3d.optim.amp": "autocast",
            "raydet3d.checkpoint.load_weights": "load_checkpoint",
            "raydet3d.checkpoint.mmengine_functions": "CheckpointLoader _load_checkpoint=read_weights_file "
            "_load_checkpoint_with_prefix=read_weights_below find_latest_checkpoint get_state_dict "
            "load_from_local=read_weights_file load_state_dict save_checkpoint weights_to_cpu",
            "LOOPS": "EpochBasedTrainLoop IterBasedTrainLoop TestLoop ValLoop",
            "LOG_PROCESSORS": "LogProcessor",
            "raydet3d.hooks": "Priority get_priority",
        },
    ),
    "mmengine.structures": (
        "base_data_element instance_data",
        {"raydet3d.structures": "BaseDataElement=DataElement InstanceData"},
    ),
    "mmengine.utils": (
        "dl_utils manager misc package_utils path progressbar version_utils",
        {
            "torch": "TORCH_VERSION=__version__",
            "raydet3d.compat.managers": "ManagerMeta ManagerMixin",
            "raydet3d.compat.mmengine_utils": "digit_version is_installed is_list_of is_seq_of is_str is_tuple_of "
            "mmcv_full_available",
            "raydet3d.compat.mmengine_path": "check_file_exist fopen is_abs is_filepath mkdir_or_exist scandir symlink",
            "raydet3d.compat.mmengine_progress": "track_iter_progress track_parallel_progress track_progress",
            "raydet3d.compat.mmengine_sequences": "apply_to concat_list get_object_from_string has_method "
            "import_modules_from_strings is_method_overridden iter_cast list_cast slice_list to_1tuple to_2tuple "
            "to_3tuple to_4tuple to_ntuple tuple_cast",
        },
    ),
    "mmengine.visualization": (
        "vis_backend visualizer",
        {
            "raydet3d.visual": "BaseVisBackend",
            "VISUALIZERS": "Visualizer",
            "VISBACKENDS": "LocalVisBackend TensorboardVisBackend WandbVisBackend",
        },
    ),
    # ------------------------------------------------------------------------------------------------ its family
    "mmcv": ("", {"raydet3d.data": "BaseTransform=Transform"}),
    "mmcv.cnn": (
        "bricks bricks.activation bricks.conv bricks.conv_module bricks.depthwise_separable_conv_module bricks.norm "
        "bricks.scale bricks.upsample bricks.wrappers",
        {
            "raydet3d.models": "ConvModule DepthwiseSeparableConvModule",
            "raydet3d.models.layers.build_layer": "build_activation_layer build_conv_layer build_norm_layer "
            "build_upsample_layer",
            "raydet3d.models.weight_init": "bias_init_with_prob constant_init kaiming_init normal_init "
            "trunc_normal_init uniform_init xavier_init",
            "raydet3d.models.layers.scale": "Scale",
            "torch.nn": "Conv2d Conv3d ConvTranspose2d GELU Linear",
        },
    ),
    "mmcv.ops": (
        "deform_conv iou3d modulated_deform_conv",
        {
            "raydet3d.models.layers.deform_conv2d": "DeformConv2d DeformConv2dPack ModulatedDeformConv2dPack",
            "raydet3d.ops.deform_conv": "deform_conv2d",
            "raydet3d.models.layers.bev_nms": "boxes_iou3d nms3d nms3d_normal",
            "raydet3d.models": "SparseConv3d SparseConvTensor SparseInverseConv3d SparseSequential SubMConv3d",
        },
    ),
    "mmcv.transforms": (
        "base builder wrappers",
        {"raydet3d.data": "BaseTransform=Transform Compose", "raydet3d.registry": "TRANSFORMS"},
    ),
    "mmdet": ("", {}),
    "mmdet.engine": ("", {}),
    "mmdet.engine.optimizers": (
        "layer_decay_optimizer_constructor",
        {"OPTIM_WRAPPER_CONSTRUCTORS": "LearningRateDecayOptimizerConstructor"},
    ),
    "mmdet.models": (
        "layers layers.transformer losses losses.utils necks necks.fpn task_modules task_modules.assigners "
        "task_modules.coders task_modules.samplers utils",
        {
            "MODELS": f"FPN {_LOSSES}",
            "TASK_UTILS": "PseudoSampler",
            "raydet3d.models.task_modules.box_coders": "BaseBBoxCoder",
            "raydet3d.compat.task_builders": "build_assigner=build_task_part build_bbox_coder=build_task_part "
            "build_sampler=build_task_part",
            "raydet3d.models.losses.base": "weighted_loss",
            "raydet3d.ops.inverse_sigmoid": "inverse_sigmoid",
            "raydet3d.models.task_modules.assigners": "AssignResult BaseAssigner",
            "raydet3d.models.task_modules.pseudo_sampler": "SamplingResult",
            "raydet3d.ops": "gaussian_radius",
            "raydet3d.compat.mmengine_utils": "multi_apply",
        },
    ),
    "mmdet.registry": ("", {"raydet3d.registry": _TABLES}),
    "mmdet.utils": (
        "dist_utils typing_utils",
        {"raydet3d.compat.mmengine_utils": _TYPES + " register_all_modules", "raydet3d.dist": "reduce_mean"},
    ),
    # ---------------------------------------------------------------------------------------------- MMDetection3D
    "mmdet3d": ("", {}),
    "mmdet3d.apis": (
        "inference inferencers inferencers.lidar_det3d_inferencer",
        {"raydet3d.runtime": "LidarDet3DInferencer inference_detector init_model"},
    ),
    "mmdet3d.datasets": (
        "dataset_wrappers det3d_dataset kitti_dataset nuscenes_dataset transforms transforms.dbsampler "
        "transforms.formating transforms.loading transforms.test_time_aug transforms.transforms_3d",
        {
            "DATASETS": "CBGSDataset Det3DDataset KittiDataset NuScenesDataset",
            "raydet3d.compat.fileio": "get",
            "raydet3d.data.transforms.formatting": "to_tensor",
            "TRANSFORMS": f"DataBaseSampler {_TRANSFORMS}",
        },
    ),
    "mmdet3d.engine": ("", {}),
    "mmdet3d.engine.hooks": (
        "benchmark_hook disable_object_sample_hook visualization_hook",
        {"HOOKS": "BenchmarkHook Det3DVisualizationHook DisableObjectSampleHook"},
    ),
    "mmdet3d.engine.optimizers": ("", {}),
    "mmdet3d.evaluation": (
        "metrics metrics.kitti_metric metrics.nuscenes_metric",
        {"METRICS": "KittiMetric NuScenesMetric"},
    ),
    "mmdet3d.models": (
        "backbones backbones.second data_preprocessors data_preprocessors.data_preprocessor dense_heads "
        "dense_heads.anchor3d_head dense_heads.base_3d_dense_head dense_heads.centerpoint_head "
        "dense_heads.train_mixins detectors detectors.base detectors.centerpoint "
        "detectors.dynamic_voxelnet detectors.mvx_faster_rcnn detectors.mvx_two_stage detectors.voxelnet layers "
        "layers.box3d_nms layers.norm layers.sparse_block layers.spconv losses middle_encoders "
        "middle_encoders.pillar_scatter middle_encoders.sparse_encoder necks necks.second_fpn task_modules "
        "task_modules.anchor task_modules.assigners task_modules.coders task_modules.coders.centerpoint_bbox_coders "
        "task_modules.samplers utils utils.clip_sigmoid utils.gaussian voxel_encoders "
        "voxel_encoders.pillar_encoder voxel_encoders.voxel_encoder",
        {
            "raydet3d.models": "Base3DDetector SparseBasicBlock make_sparse_convmodule",
            "raydet3d.models.dense_heads.base": "Base3DDenseHead",
            "raydet3d.models.dense_heads.anchor_targets": "AnchorTrainMixin get_direction_target",
            "raydet3d.models.voxel_encoders.pillar_encoder": "PFNLayer",
            "raydet3d.compat.mmengine_utils": "IS_SPCONV2_AVAILABLE",
            "raydet3d.models.voxel_encoders.hard_vfe": "VFELayer",
            "raydet3d.models.layers.bev_nms": "box3d_multiclass_nms circle_nms nms_bev nms_normal_bev",
            "raydet3d.models.layers.sync_batch_norm": "NaiveSyncBatchNorm1d NaiveSyncBatchNorm2d",
            "raydet3d.ops": "clip_sigmoid draw_heatmap_gaussian gaussian_radius",
            "MODELS": "Anchor3DHead BaseShapeHead CenterHead CenterPoint DCNSeparateHead Det3DDataPreprocessor "
            "FreeAnchor3DHead HardSimpleVFE HardVFE NoStemRegNet SASSD ShapeAwareHead SparseEncoderSASSD "
            "DynamicPillarFeatureNet DynamicSimpleVFE DynamicVFE DynamicVoxelNet MVXFasterRCNN MVXTwoStageDetector "
            "PillarFeatureNet PointPillarsScatter SECOND "
            f"SECONDFPN SeparateHead SparseEncoder VoxelNet {_LOSSES}",
            "TASK_UTILS": "AlignedAnchor3DRangeGenerator AlignedAnchor3DRangeGeneratorPerCls Anchor3DRangeGenerator "
            "BboxOverlapsNearest3D "
            "CenterPointBBoxCoder DeltaXYZWLHRBBoxCoder Max3DIoUAssigner PseudoSampler",
        },
    ),
    "mmdet3d.registry": ("", {"raydet3d.registry": _TABLES}),
    "mmdet3d.structures": (
        "bbox_3d bbox_3d.base_box3d bbox_3d.box_3d_mode bbox_3d.cam_box3d bbox_3d.depth_box3d bbox_3d.lidar_box3d "
        "bbox_3d.utils det3d_data_sample",
        {
            "raydet3d.structures": "BaseInstance3DBoxes=Boxes3D Box3DMode CameraInstance3DBoxes DepthInstance3DBoxes "
            "Det3DDataSample LiDARInstance3DBoxes get_box_type",
            "raydet3d.ops": "limit_period xywhr2xyxyr",
            "raydet3d.compat.mmengine_utils": "ForwardResults OptSampleList SampleList",
        },
    ),
    "mmdet3d.utils": (
        "setup_env typing_utils",
        {"raydet3d.compat.mmengine_utils": _TYPES + " OptSampleList register_all_modules replace_ceph_backend"},
    ),
    "mmdet3d.visualization": ("local_visualizer", {"VISUALIZERS": "Det3DLocalVisualizer"}),
}

_ENGINE = ("mmdet3d.engine", "mmdet3d.engine.optimizers")
PLACES: dict[str, tuple[str, ...]] = {
    "hook": ("mmdet3d.engine.hooks",),
    "loop": ("mmdet3d.engine",),
    "optimizer": _ENGINE,
    "optim wrapper": _ENGINE,
    "optim wrapper constructor": _ENGINE,
    "param scheduler": _ENGINE,
    "dataset": ("mmdet3d.datasets",),
    "sampler": ("mmdet3d.datasets",),
    "transform": ("mmdet3d.datasets", "mmdet3d.datasets.transforms"),
    "model": ("mmdet3d.models",),
    "task part": ("mmdet3d.models",),
    "metric": ("mmdet3d.evaluation",),
    "visualizer": ("mmdet3d.visualization",),
    "visualizer backend": ("mmdet3d.visualization",),
}
"""Where users of MMDetection3D put what they add to a table, by the table's name: packages whose init they edit."""

# `from mmengine import Config`: what the real package offers at its root.
_AT_ROOT = {"mmengine": ("config", "fileio", "logging", "registry", "utils")}


def _read(homes: dict[str, str]) -> dict[str, str]:
    """Return a row's names with their targets: `module:name`, or `raydet3d.registry:TABLE/name`."""
    found = {}
    for home, names in homes.items():
        start = f"raydet3d.registry:{home}/" if home.isupper() else f"{home}:"
        for pair in names.split():
            theirs, _, ours = pair.partition("=")
            found[theirs] = start + (ours or theirs)
    return found


def _spread() -> dict[str, dict[str, str]]:
    modules: dict[str, dict[str, str]] = {}
    for package, (inner, homes) in _ROWS.items():
        names = _read(homes)
        modules[package] = names
        modules.update({f"{package}.{name}": names for name in inner.split()})
    for root, parts in _AT_ROOT.items():
        modules[root] = {name: target for part in parts for name, target in modules[f"{root}.{part}"].items()}
    return modules


MODULES = _spread()
"""Each of their module paths that exists here, with its names and their targets (see `finder.resolve`)."""
