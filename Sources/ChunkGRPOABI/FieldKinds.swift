import ChunkGRPO

// An options struct of the header and its Swift type have the same fields. Their table, one line per field, is all that the
// ABI knows of them: how a field is checked and read, and how it is written. Defaults are those of the Swift type.

/// A field of the C struct `C` that becomes one of the Swift type `S`.
struct Field<C, S> {
  let read: (C, inout S, Extent) throws -> Void
  let write: (S, inout C) -> Void

  init(_ read: @escaping (C, inout S, Extent) throws -> Void, write: @escaping (S, inout C) -> Void = { _, _ in }) {
    self.read = read
    self.write = write
  }

  /// A field of one number.
  private init<A, B>(
    _ c: WritableKeyPath<C, A>, _ s: WritableKeyPath<S, B>, read: @escaping (A) throws -> B, write: @escaping (B) -> A
  ) {
    self.init({ options, result, _ in result[keyPath: s] = try read(options[keyPath: c]) }) {
      $1[keyPath: c] = write($0[keyPath: s])
    }
  }
}

/// The sizes that the arrays of an options struct follow.
struct Extent {
  var samples = 0, steps = 0, chunks = 0
}

/// An options struct of the header.
protocol OptionStruct: Versioned {
  associatedtype Options
  init()
  var struct_size: Int { get set }
  static var fields: [Field<Self, Options>] { get }
  static var defaults: Options { get }
}

extension OptionStruct where Options: ChunkGRPO.Options {
  static var defaults: Options { Options() }
}

extension OptionStruct {
  /// Numbers and choices of `options`; arrays are null.
  init(_ options: Options) {
    self.init()
    struct_size = MemoryLayout<Self>.stride
    for field in Self.fields { field.write(options, &self) }
  }

  func options(_ extent: Extent = Extent()) throws -> Options {
    var options = Self.defaults
    for field in Self.fields { try field.read(self, &options, extent) }
    return options
  }
}

/// The caller's options, or all defaults where there are none.
func read<C: OptionStruct>(_ options: UnsafePointer<C>?, _ extent: Extent = Extent()) throws -> C.Options {
  guard let options else { return C.defaults }
  return try readStruct(options, "options", current: C(C.defaults)).options(extent)
}

// MARK: - Kinds of fields

extension Field {
  /// A number that the library checks itself, or whose every value is right.
  static func number<T>(_ c: WritableKeyPath<C, T>, _ s: WritableKeyPath<S, T>) -> Field {
    Field(c, s, read: { $0 }, write: { $0 })
  }

  /// A number of which 0 stands for nil.
  static func number<T: Numeric>(_ c: WritableKeyPath<C, T>, _ s: WritableKeyPath<S, T?>) -> Field {
    Field(c, s, read: { $0 == 0 ? nil : $0 }, write: { $0 ?? 0 })
  }

  /// A whole number. The library states its own bounds; these keep it from overflowing there.
  static func count<T: FixedWidthInteger>(
    _ name: String, _ c: WritableKeyPath<C, T>, _ s: WritableKeyPath<S, Int>
  ) -> Field {
    Field(
      c, s, read: { try ChunkGRPOABI.count(Int64($0), name, -maxCount...maxCount) }, write: { T(clamping: $0) })
  }

  /// A whole number of which 0 stands for nil.
  static func count(_ name: String, _ c: WritableKeyPath<C, Int64>, _ s: WritableKeyPath<S, Int?>) -> Field {
    Field(
      c, s, read: { $0 == 0 ? nil : try ChunkGRPOABI.count($0, name, -maxCount...maxCount) }, write: { Int64($0 ?? 0) })
  }

  static func flag(_ name: String, _ c: WritableKeyPath<C, Int32>, _ s: WritableKeyPath<S, Bool>) -> Field {
    Field(c, s, read: { try ChunkGRPOABI.flag($0, name) }, write: { $0 ? 1 : 0 })
  }

  static func choice<E: RawRepresentable<Int32>>(
    _ name: String, _ c: WritableKeyPath<C, Int32>, _ s: WritableKeyPath<S, E>
  ) -> Field {
    Field(c, s, read: { try enumeration($0, name) }, write: { $0.rawValue })
  }

  /// A choice of which 0 stands for nil.
  static func choice<E: RawRepresentable<Int32>>(
    _ name: String, _ c: WritableKeyPath<C, Int32>, _ s: WritableKeyPath<S, E?>
  ) -> Field {
    Field(c, s, read: { $0 == 0 ? nil : try enumeration($0, name) }, write: { $0?.rawValue ?? 0 })
  }

  /// An array of (rows, columns) numbers that is borrowed, or null for nil; its size follows from the call.
  private static func array<T, R>(
    _ name: String, _ c: WritableKeyPath<C, UnsafePointer<T>?>, _ s: WritableKeyPath<S, R?>,
    as convert: @escaping (UnsafePointer<T>, _ count: Int) -> R, _ size: @escaping (C, Extent) throws -> (Int, Int)
  ) -> Field {
    Field { options, result, extent in
      guard let pointer = options[keyPath: c] else { return }
      let (rows, columns) = try size(options, extent)
      result[keyPath: s] = convert(pointer, try product(rows, columns, name))
    }
  }

  static func array<T>(
    _ name: String, _ c: WritableKeyPath<C, UnsafePointer<T>?>, _ s: WritableKeyPath<S, Numbers<T>?>,
    _ size: @escaping (C, Extent) throws -> (Int, Int)
  ) -> Field {
    array(name, c, s, as: { Numbers(borrowing: UnsafeBufferPointer(start: $0, count: $1)) }, size)
  }

  static func array(
    _ name: String, _ c: WritableKeyPath<C, UnsafePointer<Int64>?>, _ s: WritableKeyPath<S, Numbers<Int>?>,
    _ size: @escaping (C, Extent) throws -> (Int, Int)
  ) -> Field {
    array(name, c, s, as: { Numbers(borrowing: UnsafeBufferPointer(start: ints($0), count: $1)) }, size)
  }

  /// Bytes, of which each but 0 is yes.
  static func flags(
    _ name: String, _ c: WritableKeyPath<C, UnsafePointer<UInt8>?>, _ s: WritableKeyPath<S, Flags?>,
    _ size: @escaping (C, Extent) throws -> (Int, Int)
  ) -> Field {
    array(name, c, s, as: { Flags(Numbers(borrowing: UnsafeBufferPointer(start: $0, count: $1))) }, size)
  }

  /// An array of whole numbers that comes with its count and is borrowed, or null with a count of 0. No more than `most` are
  /// read.
  static func array(
    _ name: String, _ c: WritableKeyPath<C, UnsafePointer<Int64>?>, _ countName: String,
    _ count: WritableKeyPath<C, Int64>, _ s: WritableKeyPath<S, Numbers<Int>?>, most: @escaping (Extent) -> Int
  ) -> Field {
    counted(name, c, countName, count, s, most: most) {
      Numbers(borrowing: UnsafeBufferPointer(start: ints($0), count: $1))
    }
  }

  /// The same for numbers.
  static func array(
    _ name: String, _ c: WritableKeyPath<C, UnsafePointer<Double>?>, _ countName: String,
    _ count: WritableKeyPath<C, Int64>, _ s: WritableKeyPath<S, Numbers<Double>?>, most: @escaping (Extent) -> Int
  ) -> Field {
    counted(name, c, countName, count, s, most: most) {
      Numbers(borrowing: UnsafeBufferPointer(start: $0, count: $1))
    }
  }

  private static func counted<T, R>(
    _ name: String, _ c: WritableKeyPath<C, UnsafePointer<T>?>, _ countName: String,
    _ count: WritableKeyPath<C, Int64>, _ s: WritableKeyPath<S, R?>, most: @escaping (Extent) -> Int,
    as convert: @escaping (UnsafePointer<T>, _ count: Int) throws -> R
  ) -> Field {
    Field { options, result, extent in
      guard let values = options[keyPath: c] else {
        return try require(
          options[keyPath: count] == 0, "\(name) is null, but \(countName) = \(options[keyPath: count])")
      }
      let n = try ChunkGRPOABI.count(options[keyPath: count], countName, 1...most(extent))
      result[keyPath: s] = try convert(values, n)
    }
  }

  static func reserved(_ c: WritableKeyPath<C, Int32>) -> Field {
    Field { options, _, _ in
      try require(options[keyPath: c] == 0, "options.reserved = \(options[keyPath: c]) must be 0")
    }
  }

  /// A rule between fields; nothing is read.
  static func rule(_ check: @escaping (C) throws -> Void) -> Field {
    Field { options, _, _ in try check(options) }
  }
}
