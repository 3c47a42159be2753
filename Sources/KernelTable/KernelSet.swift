/// All kernels of one instruction set.
public protocol KernelSet: SendableMetatype {
  static var float32: any LatentKernels.Type { get }
  /// f32 latents and their sums' order, with velocities and their gradients in bf16 or f16.
  static var float32BFloat16: any LatentKernels.Type { get }
  static var float32Float16: any LatentKernels.Type { get }
  static var float64: any LatentKernels.Type { get }
  static var bfloat16: any LatentKernels.Type { get }
  static var float16: any LatentKernels.Type { get }

  static var network32: any NetworkKernels.Type { get }
  static var network64: any NetworkKernels.Type { get }
  static func adamW(_ arguments: UnsafePointer<AdamWArguments>)
  /// average' = average + share·(w − average), which may be average.
  static func average(
    share: Float, _ w: UnsafeRawPointer, _ average: UnsafeRawPointer, into newAverage: UnsafeMutableRawPointer,
    count: Int)

  /// Uniform draws in (0, 1), 32 bits each: word 0 of Philox's counters in order.
  static func uniforms(
    seed: UInt64, sampleID: UInt64, step: UInt32, scratch: UnsafeMutableRawPointer,
    into: UnsafeMutableBufferPointer<Double>)
}
