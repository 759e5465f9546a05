"""Objects in a local folder or on S3: written whole, read with retries, found by what determines them.

Nothing here knows what an object means.
"""
