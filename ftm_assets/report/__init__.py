"""A quarter as one page to look at: figures, tables, and the sentences behind them."""
