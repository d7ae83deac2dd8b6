from gpubench.workload import *
def work(shape, precision):
    m,n,k=map(int,shape.split('x')); b=PRECISION_BYTES[precision]
    return Work(flops=2*m*n*k,bytes=b*(m*n+n*k+m*k),footprint=b*(m*n+n*k+m*k))
@workload(version=1, work=work, shape=["1024x1024x1024"], precision=["fp32"])
def gemm(device, shape, precision):
    """Try."""
    import torch
    m,n,k=map(int,shape.split('x'))
    a=torch.randn(m,k,dtype=getattr(torch,TORCH_TYPES[precision])); b=torch.randn(k,n).to(a.dtype)
    return Prepared(step=lambda: a@b)
