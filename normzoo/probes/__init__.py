"""Measuring instruments: plain functions for any model, and Lightning callbacks that record them during training.

    from normzoo.probes.loss_landscape import loss_landscape

    found = loss_landscape(model, torch.nn.functional.cross_entropy, (x, y))
    found.loss_range, found.beta

A function leaves the model unchanged: parameters, gradients, running statistics, modes, hooks, and torch's RNG state.
A callback in a `lightning.Trainer` measures the module's attribute `model`, or else the module, on batches `(x, y)`.
`recording()` returns its measurements as arrays and `summary()` returns a few numbers; a cell writes them to
`recording.npz` and `result.json`.

    function                   callback                       passes per measurement, forward + backward
    loss_landscape             LossLandscape                  1 + S each, for S step sizes
    loss_surface               LossSurface                    points² + 0, once at the end
    covariate_shift            CovariateShiftProbe            L + 1 and L, for L layers with weights
    activation_distribution    ActivationDistributionProbe    1 + 0; the callback 2 + 0
    channel_correlation        ChannelCorrelationProbe        1 + 0; the callback once, at the end
    activation_health          ActivationHealthProbe          1 + 0 per batch; the callback 1 + 1 in addition
    gradient_norms             (part of activation health)    1 + 1
    statistic_noise            StatisticNoiseProbe            1 + 0 per batch; the callback before and after training
    add_output_noise           OutputNoise                    none, two random tensors per norm; it changes training

Studies, which run in place of a cell's training, are `adaptation`, `bn_algorithm`, `federated`, `fine_tuning`,
`normalized_training` and `normalizers`; see conf/study.

`train_eval_gap` copies a model to normalize by batch statistics or by recomputed ones; every cell takes its three
errors from it: 1 + 0 per batch each, and as much for the images that the statistics are recomputed on.
"""
