"""How good predictions are: verdict by verdict (judge), as figures (figures), against another run (versus), to read
(report)."""
