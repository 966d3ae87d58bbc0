"""Measuring instruments: plain functions usable on any model, and Lightning callbacks that record them in a training.

    from normzoo.probes.loss_landscape import loss_landscape

    found = loss_landscape(model, torch.nn.functional.cross_entropy, (x, y))
    found.loss_range, found.beta

A function measures a model as it stands and leaves it as it was: parameters, gradients, running statistics, modes,
hooks, and torch's random numbers. A callback in a `lightning.Trainer` measures the module's attribute `model`, or else
the module, on batches `(x, y)`; `recording()` gives what it measured as arrays and `summary()` a few numbers, which a
cell writes into `recording.npz` and `result.json`. Without a callback nothing is done; between two measurements a
callback looks at the number of the step.

    function                   callback                       passes of one measurement, forward + backward
    loss_landscape             LossLandscape                  1 + S each, for S step sizes
    loss_surface               LossSurface                    points² + 0, once at the end
    covariate_shift            CovariateShiftProbe            L + 1 and L, for L layers with weights
    activation_distribution    ActivationDistributionProbe    1 + 0; the callback 2 + 0
    channel_correlation        ChannelCorrelationProbe        1 + 0; the callback once, at the end
    activation_health          ActivationHealthProbe          1 + 0 a batch; the callback 1 + 1 beside that
    gradient_norms             (within that)                  1 + 1
    statistic_noise            StatisticNoiseProbe            1 + 0 a batch; the callback before and after the training
    add_output_noise           OutputNoise                    none, two random tensors a norm; it changes the training

`train_eval_gap` has the copies of a model that normalize by the batch's or by recomputed statistics, from which every
cell takes its three errors: 1 + 0 a batch for each, and as much for the images that statistics are recomputed on.
"""
