"""Where stages run and what is shown of them: the bridge from Prefect and Ray to ``dcgan_core``."""
