"""Tasks on a model: options, results with error bars, the difference of two models, CORE."""
