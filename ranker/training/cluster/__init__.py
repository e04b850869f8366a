"""Growing boosters on the workers of a Dask cluster, by `lightgbm.dask`."""
