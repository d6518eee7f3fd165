/** A store with the routes of pictures. */
import type { TestContext } from 'node:test'
import { imageRoutes } from '../../gateway/http/orthanc/images.ts'
import { numpyRoutes } from '../../gateway/http/orthanc/numpy.ts'
import { openRendering } from '../../gateway/services/rendering.ts'
import { openRetrieve } from '../../gateway/services/retrieve.ts'
import { testPixels } from '../pixels/support.ts'
import { type StoreApp, storeApp } from './store-app.ts'

export async function imageApp(t: TestContext): Promise<StoreApp> {
  const pixels = await testPixels(t)
  return await storeApp(t, {
    routes: async (app, { db, blobs }) => {
      const rendering = openRendering({ retrieve: openRetrieve({ db, blobs }), pixels })
      imageRoutes(app, { rendering })
      numpyRoutes(app, { db, rendering })
    },
  })
}
