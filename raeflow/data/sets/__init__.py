"""Named sets: what each is, where its public original lies, how it is downloaded or made. Only `raeflow.data.sources` asks here."""
