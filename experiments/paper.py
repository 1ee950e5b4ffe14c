"""What Ba et al. (2016) report, as data: test errors in percent by model and size; None is "never"."""

TABLE_1 = {
    "irnn": {20: 62.11, 50: 60.23, 100: 0.34},
    "lstm": {20: 60.81, 50: 1.85, 100: 0.0},
    "associative_lstm": {20: 60.13, 50: 1.62, 100: 0.0},
    "fast_weights": {20: 1.81, 50: 0.0, 100: 0.0},
}
# Updates to a test NLL under 0.1 at R = 50, read off Figure 2.
FIGURE_2: dict[str, int | None] = {
    "irnn": None,
    "lstm": 630_000,
    "associative_lstm": 470_000,
    "fast_weights": 50_000,
}
TABLE_2 = {
    "irnn": {50: 12.95, 100: 1.95, 200: 1.42},
    "lstm": {50: 12.0, 100: 1.55, 200: 1.10},
    "convnet": {50: 1.81, 100: 1.00, 200: 0.9},
    "multilevel": {50: 7.21, 100: 1.30, 200: 0.85},
}
