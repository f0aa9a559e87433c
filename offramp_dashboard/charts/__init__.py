"""Charts as ECharts options: pure functions from figures and a palette."""
