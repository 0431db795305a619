"""Data and models in a bucket.

DVC keeps what the pipeline makes in its remote; this package is what stands around that:

* `bucket`    opens a bucket and says in two lines what is missing or refused;
* `trees`     copies a folder (a training checkpoint) to gs:// and back, whole or not at all;
* `remote`    points a clone at a bucket, and pushes and pulls with those messages;
* `verify`    holds every file against its hash, in the workspace, the cache and the bucket;
* `releases`  finds released adapters by git tag and fetches one.

Nothing here is imported by the pipeline's stages unless a checkpoint is to be copied to a bucket.
"""
