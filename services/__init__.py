"""HTTP services, one package each; every one starts alone with `vpd serve NAME`."""
